// Command chaos is the second client of ../chaos.py: a producer of numbered records under faults, and a reader of everything.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const bufferedMax = 200_000

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	check(err)
	return n
}

func main() {
	seeds, topics, partitions := strings.Split(os.Args[2], ","), strings.Split(os.Args[3], ","), number(os.Args[4])
	switch os.Args[1] {
	case "produce":
		produce(seeds, topics, partitions, number(os.Args[5]), number(os.Args[6]), number(os.Args[7]))
	case "read":
		read(seeds, topics, partitions)
	}
}

// produce writes `rate` records a second until its input is closed, then ends once all are acknowledged. For each it prints
// (number, offset), both big-endian.
func produce(seeds, topics []string, partitions, producer, rate, size int) {
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchCompression(kgo.SnappyCompression()),
		kgo.ProduceRequestTimeout(5*time.Second), kgo.RequestTimeoutOverhead(time.Second), kgo.DialTimeout(2*time.Second),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
		kgo.UnknownTopicRetries(-1), kgo.RequestRetries(1<<30), kgo.AlwaysRetryEOF(), kgo.MaxBufferedRecords(bufferedMax), kgo.StopProducerOnDataLossDetected())
	check(err)
	var lock sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	failed := 0
	acked := func(n int, record *kgo.Record, err error) {
		lock.Lock()
		defer lock.Unlock()
		offset := record.Offset
		if err != nil {
			offset = -2
			if failed++; failed < 10 {
				fmt.Fprintf(os.Stderr, "franz-go: record %d: %v\n", n, err)
			}
		}
		binary.Write(out, binary.BigEndian, [2]int64{int64(n), offset})
	}
	flush := func() {
		lock.Lock()
		defer lock.Unlock()
		check(out.Flush())
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	slots := len(topics) * partitions
	next := 0
	for ticks := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-stop:
			check(client.Flush(context.Background()))
			flush()
			if failed > 0 {
				os.Exit(1)
			}
			return
		case <-ticks.C:
		}
		// A cluster that takes nothing is waited for: what was not sent in time is not made up for.
		for range max(1, rate/100) {
			if client.BufferedProduceRecords() >= bufferedMax {
				break
			}
			n, slot := next, next%slots
			value := make([]byte, size)
			binary.BigEndian.PutUint64(value, uint64(producer))
			binary.BigEndian.PutUint64(value[8:], uint64(n))
			record := &kgo.Record{Topic: topics[slot/partitions], Partition: int32(slot % partitions), Value: value}
			client.Produce(context.Background(), record, func(record *kgo.Record, err error) { acked(n, record, err) })
			next++
		}
		flush()
	}
}

// read prints (slot, offset, producer, number) of every record below the ends that the partitions have now.
func read(seeds, topics []string, partitions int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	check(err)
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	check(err)
	slots, left := map[string]int{}, int64(0)
	from := map[string]map[int32]kgo.Offset{}
	for i, topic := range topics {
		slots[topic] = i * partitions
		from[topic] = map[int32]kgo.Offset{}
		for partition, end := range ends[topic] {
			check(end.Err)
			left += end.Offset
			from[topic][partition] = kgo.NewOffset().At(0)
		}
	}
	client.AddConsumePartitions(from)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for left > 0 {
		fetches := client.PollFetches(ctx)
		check(fetches.Err0())
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset >= ends[r.Topic][r.Partition].Offset {
				return
			}
			left--
			binary.Write(out, binary.BigEndian, int32(slots[r.Topic]+int(r.Partition)))
			binary.Write(out, binary.BigEndian, r.Offset)
			out.Write(r.Value[:16])
		})
	}
}
