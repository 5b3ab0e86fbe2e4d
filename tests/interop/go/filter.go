package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// How soon a consumer must be told that its filter is not supported. This client never asks, and pulls again 3 s after an error.
const refusalDeadline = 10 * time.Second

// Keeps what the client logs: a push consumer has no other way to report an error of a pull.
type keptLog struct {
	sync.Mutex
	lines []string
}

func (log *keptLog) keep(text string, fields map[string]interface{}) {
	log.Lock()
	defer log.Unlock()
	log.lines = append(log.lines, fmt.Sprint(text, " ", fields))
}

func (log *keptLog) Debug(string, map[string]interface{}) {}
func (log *keptLog) Info(string, map[string]interface{})  {}
func (log *keptLog) Warning(text string, fields map[string]interface{}) {
	log.keep(text, fields)
}
func (log *keptLog) Error(text string, fields map[string]interface{}) { log.keep(text, fields) }
func (log *keptLog) Fatal(text string, fields map[string]interface{}) { log.keep(text, fields) }
func (log *keptLog) Level(string)                                     {}
func (log *keptLog) OutputPath(string) error                          { return nil }

func (log *keptLog) has(part string) bool {
	log.Lock()
	defer log.Unlock()
	for _, line := range log.lines {
		if strings.Contains(line, part) {
			return true
		}
	}
	return false
}

// A consumer with an SQL92 expression gets an error immediately, instead of nothing forever.
func refuseSQL(t target, topic string) (string, error) {
	log := &keptLog{}
	rlog.SetLogger(log)
	c, err := rocketmq.NewPushConsumer(consumer.WithNameServer(t.namesrv), consumer.WithGroupName(t.topic("sql_group")))
	if err != nil {
		return "", err
	}
	ignore := func(context.Context, ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		return consumer.ConsumeSuccess, nil
	}
	if err := c.Subscribe(topic, consumer.MessageSelector{Type: consumer.SQL92, Expression: "a > 1"}, ignore); err != nil {
		return "", err
	}
	if err := c.Start(); err != nil {
		return "", err
	}
	defer c.Shutdown()
	return "", await(refusalDeadline, "the client logs that the filter is not supported", func() bool { return log.has("does not support") })
}
