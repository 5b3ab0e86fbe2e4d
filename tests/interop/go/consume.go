package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	crashDeadline = 120 * time.Second
	// Clients request routes every 30 s.
	consumeDeadline         = 60 * time.Second
	failoverConsumeDeadline = 200 * time.Second
)

// Consumes what another program sends while leaders are killed, until it has consumed everything in that program's manifest at the
// time when `stop` exists. Creates `begun` when it has consumed the first message.
func consumeThroughFailovers(t target, stop, begun, manifest string) (string, error) {
	if err := await(crashDeadline, "a first acknowledgement", func() bool {
		sent, err := readManifest(manifest)
		return err == nil && len(sent) > 0
	}); err != nil {
		return "", err
	}
	sent, err := readManifest(manifest)
	if err != nil {
		return "", err
	}
	var mutex sync.Mutex
	consumed, last, gap := map[string]int{}, time.Now(), time.Duration(0)
	c, err := rocketmq.NewPushConsumer(consumer.WithNameServer(t.namesrv), consumer.WithGroupName(t.topic("crash_consumer")),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err != nil {
		return "", err
	}
	handle := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mutex.Lock()
		defer mutex.Unlock()
		gap = max(gap, time.Since(last))
		last = time.Now()
		for _, m := range messages {
			consumed[m.GetKeys()]++
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := c.Subscribe(sent[0].topic, consumer.MessageSelector{}, handle); err != nil {
		return "", err
	}
	if err := c.Start(); err != nil {
		return "", err
	}
	defer c.Shutdown()
	if err := await(consumeDeadline, "a first message", func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		return len(consumed) > 0
	}); err != nil {
		return "", err
	}
	if err := os.WriteFile(begun, nil, 0o644); err != nil {
		return "", err
	}
	if err := await(crashDeadline, "the end of sending", func() bool { return exists(stop) }); err != nil {
		return "", err
	}
	if err := await(consumeDeadline, "all acknowledged messages", func() bool {
		sent, err := readManifest(manifest)
		mutex.Lock()
		defer mutex.Unlock()
		for _, s := range sent {
			if consumed[s.keys] == 0 {
				return false
			}
		}
		return err == nil
	}); err != nil {
		return "", err
	}
	mutex.Lock()
	defer mutex.Unlock()
	again := 0
	for _, count := range consumed {
		if count > 1 {
			again++
		}
	}
	return fmt.Sprintf("%d consumed, %d of them repeatedly, longest gap %d ms", len(consumed), again, gap.Milliseconds()), nil
}
