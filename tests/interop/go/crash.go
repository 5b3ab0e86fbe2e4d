package main

import (
	"context"
	"fmt"
	"os"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// Members of a group consume until `stop` exists, and each delivery becomes a line of `deliveries`; CrashConsumers.java checks them.
// Then the process ends as if killed: without commits.
func consumeUntil(t target, topic, group string, members int, deliveries, stop string) error {
	file, err := os.OpenFile(deliveries, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for i := 0; i < members; i++ {
		if err := startMember(t, topic, group, fmt.Sprintf("%d-%d", os.Getpid(), i), file); err != nil {
			return err
		}
	}
	for exists(deliveries) && !exists(stop) {
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(0)
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func startMember(t target, topic, group, instance string, deliveries *os.File) error {
	c, err := rocketmq.NewPushConsumer(consumer.WithNameServer(t.namesrv), consumer.WithGroupName(group),
		consumer.WithInstance(instance), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err != nil {
		return err
	}
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, message := range messages {
			if _, err := fmt.Fprintln(deliveries, delivered(message).line()); err != nil {
				return consumer.ConsumeRetryLater, err
			}
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := c.Subscribe(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}, listener); err != nil {
		return err
	}
	return c.Start()
}
