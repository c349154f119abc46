// Command client runs franz-go in the scenario of ../README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	check(err)
	return n
}

func client(bootstrap string, options ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append(options, kgo.SeedBrokers(strings.Split(bootstrap, ",")...))...)
	check(err)
	return c
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	bootstrap, command, args := os.Args[1], os.Args[2], os.Args[3:]
	switch command {
	case "create":
		_, err := kadm.NewClient(client(bootstrap)).CreateTopic(ctx, int32(number(args[1])), 1, nil, args[0])
		check(err)
	case "produce":
		produce(ctx, bootstrap, args[0], args[1], number(args[2]), number(args[3]))
	case "consume":
		consume(ctx, bootstrap, args[0], args[1], number(args[2]), len(args) > 3)
	case "times":
		offsets, err := kadm.NewClient(client(bootstrap)).ListOffsetsAfterMilli(ctx, number(args[1]), args[0])
		check(err)
		for partition, offset := range offsets[args[0]] {
			check(offset.Err)
			if offset.Timestamp < 0 { // kadm then answers with the end of the log
				offset.Offset = -1
			}
			fmt.Println(partition, offset.Offset)
		}
	case "large":
		c := client(bootstrap, kgo.ProducerBatchMaxBytes(20_000_000), kgo.BrokerMaxWriteBytes(40_000_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
		err := c.ProduceSync(ctx, &kgo.Record{Topic: args[0], Value: make([]byte, number(args[1]))}).FirstErr()
		if errors.Is(err, kerr.MessageTooLarge) {
			fmt.Println("refused")
			return
		}
		check(err)
		fmt.Println("accepted")
	}
}

func produce(ctx context.Context, bootstrap, topic, codec string, from, to int64) {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	c := client(bootstrap, kgo.ProducerBatchCompression(codecs[codec]), kgo.ProducerLinger(5*time.Millisecond))
	defer c.Close()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%10), Value: fmt.Appendf(nil, "v%d", i)})
	}
	check(c.ProduceSync(ctx, records...).FirstErr())
	fmt.Println("acked", len(records))
}

func consume(ctx context.Context, bootstrap, topic, group string, count int64, die bool) {
	c := client(bootstrap, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(time.Second), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for count > 0 {
		fetches := c.PollRecords(ctx, int(min(count, 50)))
		check(fetches.Err0())
		for _, r := range fetches.Records() {
			fmt.Printf("%s\t%d\t%d\n", r.Value, r.Partition, r.Offset)
			count--
		}
		check(c.CommitRecords(ctx, fetches.Records()...))
	}
	if die {
		check(syscall.Kill(os.Getpid(), syscall.SIGKILL))
	}
	c.Close()
}
