// kafkajs in the scenario of ../README.md. kafkajs itself brings gzip; the other codecs plug in as its documentation says.
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");
const lz4 = require("lz4js");
const zstd = require("@bokuweb/zstd-wasm");

const zstdReady = zstd.init();

CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => (await zstdReady, Buffer.from(zstd.compress(encoder.buffer, 3))),
  decompress: async (buffer) => (await zstdReady, Buffer.from(zstd.decompress(buffer))),
});
const codecs = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 };

const [bootstrap, command, ...args] = process.argv.slice(2);
const kafka = new Kafka({ clientId: "node", brokers: bootstrap.split(","), logLevel: logLevel.NOTHING });

const commands = {
  async create(topic, partitions) {
    const admin = kafka.admin();
    await admin.connect();
    await admin.createTopics({ topics: [{ topic, numPartitions: Number(partitions), replicationFactor: 1 }], waitForLeaders: true });
    await admin.disconnect();
  },
  async produce(topic, codec, from, to) {
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
    await producer.connect();
    const messages = [];
    for (let i = Number(from); i < Number(to); i++) messages.push({ key: `k${i % 10}`, value: `v${i}` });
    for (let i = 0; i < messages.length; i += 100) {
      await producer.send({ topic, compression: codecs[codec], acks: -1, messages: messages.slice(i, i + 100) });
    }
    await producer.disconnect();
    console.log("acked", messages.length);
  },
  async consume(topic, groupId, count, die) {
    const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 1000 });
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    let left = Number(count);
    let done;
    const finished = new Promise((resolve) => (done = resolve));
    setTimeout(() => { console.error(`${left} records did not come within 60 s`); process.exit(1); }, 60000).unref();
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        if (left === 0) return;
        console.log(`${message.value}\t${partition}\t${message.offset}`);
        await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }]);
        if (--left === 0) {
          if (die) process.kill(process.pid, "SIGKILL");
          done();
        }
      },
    });
    await finished;
    await consumer.disconnect();
  },
  async times(topic, timestamp) {
    const admin = kafka.admin();
    await admin.connect();
    const end = new Map((await admin.fetchTopicOffsets(topic)).map((o) => [o.partition, o.high]));
    for (const { partition, offset } of await admin.fetchTopicOffsetsByTimestamp(topic, Number(timestamp))) {
      // kafkajs answers with the end of the log where no record is that young
      console.log(partition, offset === end.get(partition) ? -1 : offset);
    }
    await admin.disconnect();
  },
  async large(topic, bytes) {
    const producer = kafka.producer({ retry: { retries: 0 } });
    await producer.connect();
    try {
      await producer.send({ topic, acks: -1, messages: [{ value: Buffer.alloc(Number(bytes), "x") }] });
      console.log("accepted");
    } catch (error) {
      if (!/MESSAGE_TOO_LARGE/.test(error.type ?? error.cause?.type ?? "")) throw error;
      console.log("refused");
    }
    await producer.disconnect();
  },
};

commands[command](...args).then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
