import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.serialization.*;

/** kafka-clients in the scenario of ../README.md. */
public class Client {
    static String bootstrap;

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        switch (args[1]) {
            case "create" -> create(args[2], Integer.parseInt(args[3]));
            case "produce" -> produce(args[2], args[3], Integer.parseInt(args[4]), Integer.parseInt(args[5]));
            case "consume" -> consume(args[2], args[3], Integer.parseInt(args[4]), args.length > 5);
            case "times" -> times(args[2], Long.parseLong(args[3]));
            case "large" -> large(args[2], Integer.parseInt(args[3]));
            default -> throw new IllegalArgumentException(args[1]);
        }
    }

    static void create(String topic, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get(20, TimeUnit.SECONDS);
        }
    }

    static KafkaProducer<String, byte[]> producer(String codec) {
        return new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap, "compression.type", codec, "linger.ms", 5,
                "max.request.size", 20_000_000, "buffer.memory", 64_000_000L), new StringSerializer(), new ByteArraySerializer());
    }

    static void produce(String topic, String codec, int from, int to) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = producer(codec)) {
            for (int i = from; i < to; i++) {
                sent.add(producer.send(new ProducerRecord<>(topic, "k" + i % 10, ("v" + i).getBytes())));
            }
            for (var future : sent) future.get(30, TimeUnit.SECONDS);
        }
        System.out.println("acked " + sent.size());
    }

    static void consume(String topic, String group, int count, boolean die) {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "group.id", group, "enable.auto.commit", false,
                "auto.offset.reset", "earliest", "session.timeout.ms", 6000, "heartbeat.interval.ms", 1000, "max.poll.records", 50);
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            long limit = System.currentTimeMillis() + 60_000;
            while (count > 0 && System.currentTimeMillis() < limit) {
                Map<TopicPartition, OffsetAndMetadata> done = new HashMap<>();
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    if (count == 0) break;
                    System.out.println(record.value() + "\t" + record.partition() + "\t" + record.offset());
                    done.put(new TopicPartition(topic, record.partition()), new OffsetAndMetadata(record.offset() + 1, "by hand"));
                    count--;
                }
                if (!done.isEmpty()) consumer.commitSync(done);
            }
            if (count > 0) {
                System.err.println(count + " records did not come within 60 s");
                System.exit(1);
            }
            System.out.flush();
            if (die) ProcessHandle.of(ProcessHandle.current().pid()).ifPresent(me -> {
                try {
                    new ProcessBuilder("kill", "-9", Long.toString(me.pid())).start().waitFor();
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            });
        }
    }

    static void times(String topic, long timestamp) {
        try (var consumer = new KafkaConsumer<>(Map.of("bootstrap.servers", bootstrap), new StringDeserializer(), new StringDeserializer())) {
            Map<TopicPartition, Long> ask = new TreeMap<>(Comparator.comparingInt(TopicPartition::partition));
            for (var p : consumer.partitionsFor(topic)) ask.put(new TopicPartition(topic, p.partition()), timestamp);
            var found = consumer.offsetsForTimes(ask);
            for (var p : ask.keySet()) System.out.println(p.partition() + " " + (found.get(p) == null ? -1 : found.get(p).offset()));
        }
    }

    static void large(String topic, int bytes) throws Exception {
        try (var producer = producer("none")) {
            producer.send(new ProducerRecord<>(topic, null, new byte[bytes])).get(30, TimeUnit.SECONDS);
            System.out.println("accepted");
        } catch (ExecutionException e) {
            if (!(e.getCause() instanceof RecordTooLargeException)) throw e;
            System.out.println("refused");
        }
    }
}
