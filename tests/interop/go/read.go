package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	pullTimeout = 10 * time.Second
	pullCount   = 32
)

// What clients and brokers add to the user's properties.
var systemProperties = []string{"UNIQ_KEY", "KEYS", "TAGS", "WAIT", "CLUSTER", "MSG_REGION", "TRACE_ON", "MIN_OFFSET", "MAX_OFFSET", "INSTANCE_ID"}

// Runs the consumer's cases on what this program sent and on the manifests of others.
func readAll(t target, r *report, own []sentMessage, others string) {
	for topic, sent := range byTopic(own) {
		if sent[0].offset < 0 {
			continue // One-way: no offset is known, and this client cannot list a topic without waiting at each queue's end.
		}
		r.check("pulls back "+strings.TrimPrefix(topic, t.prefix+"_"), func() (string, error) { return pullTopic(t, topic, sent) })
	}
	if sent := byTopic(own)[t.topic("ordered")]; len(sent) > 0 {
		r.check("polls, acknowledges, and the committed offset is there for the next consumer", func() (string, error) { return commitOffset(t, sent) })
	}
	for _, named := range strings.Split(others, ",") {
		name, path, found := strings.Cut(named, "=")
		if !found {
			continue
		}
		r.check("reads what "+name+" sent", func() (string, error) {
			sent, err := readManifest(path)
			if err == nil && len(sent) == 0 {
				err = errors.New("the manifest is empty")
			}
			for topic, sent := range byTopic(sent) {
				if err == nil {
					_, err = pullTopic(t, topic, sent)
				}
			}
			return fmt.Sprintf("%d messages", len(sent)), err
		})
	}
}

func byTopic(sent []sentMessage) map[string][]sentMessage {
	topics := map[string][]sentMessage{}
	for _, s := range sent {
		topics[s.topic] = append(topics[s.topic], s)
	}
	return topics
}

// Without `assigned` the consumer polls nothing on its own: queues are pulled one by one.
func newConsumer(t target, group, instance, topic string, assigned ...*primitive.MessageQueue) (rocketmq.PullConsumer, []*primitive.MessageQueue, error) {
	c, err := rocketmq.NewPullConsumer(consumer.WithNameServer(t.namesrv), consumer.WithGroupName(group), consumer.WithInstance(instance))
	if err != nil {
		return nil, nil, err
	}
	if err := c.Assign(topic, assigned); err != nil {
		return nil, nil, err
	}
	if err := c.Start(); err != nil {
		return nil, nil, err
	}
	queues, err := c.GetTopicRouteInfo(topic)
	return c, queues, err
}

// Pulls every queue that has messages, from its beginning to its end, and compares.
func pullTopic(t target, topic string, sent []sentMessage) (string, error) {
	group := fmt.Sprintf("%s_reader_%d", t.topic("g"), time.Now().UnixNano())
	c, queues, err := newConsumer(t, group, group, topic)
	if err != nil {
		return "", err
	}
	defer c.Shutdown()
	for queue, wanted := range byQueue(sent) {
		at, err := findQueue(queues, queue)
		if err != nil {
			return "", err
		}
		if err := pullQueue(c, at, wanted); err != nil {
			return "", fmt.Errorf("%s %s: %w", topic, queue, err)
		}
	}
	return fmt.Sprintf("%d messages", len(sent)), nil
}

// By broker and queue, in the order of offsets.
func byQueue(sent []sentMessage) map[string][]sentMessage {
	queues := map[string][]sentMessage{}
	for _, s := range sent {
		name := fmt.Sprintf("%s/%d", s.broker, s.queue)
		queues[name] = append(queues[name], s)
	}
	for _, queue := range queues {
		sort.Slice(queue, func(i, j int) bool { return queue[i].offset < queue[j].offset })
	}
	return queues
}

func findQueue(queues []*primitive.MessageQueue, name string) (*primitive.MessageQueue, error) {
	for _, q := range queues {
		if fmt.Sprintf("%s/%d", q.BrokerName, q.QueueId) == name {
			return q, nil
		}
	}
	return nil, fmt.Errorf("the route has no queue %s: %v", name, queues)
}

func pullQueue(c rocketmq.PullConsumer, queue *primitive.MessageQueue, wanted []sentMessage) error {
	for next := 0; next < len(wanted); {
		ctx, cancel := context.WithTimeout(context.Background(), pullTimeout)
		result, err := c.PullFrom(ctx, queue, int64(next), pullCount)
		cancel()
		if err != nil {
			return fmt.Errorf("pull from %d: %w", next, err)
		}
		if result.Status != primitive.PullFound {
			return fmt.Errorf("pull from %d: status %d", next, result.Status)
		}
		if result.MaxOffset != int64(len(wanted)) {
			return fmt.Errorf("the queue ends at %d, wanted %d", result.MaxOffset, len(wanted))
		}
		for _, m := range result.GetMessageExts() {
			if err := same(wanted[next], m); err != nil {
				return fmt.Errorf("offset %d: %w", next, err)
			}
			next++
		}
		if result.NextBeginOffset != int64(next) {
			return fmt.Errorf("next offset %d, wanted %d", result.NextBeginOffset, next)
		}
	}
	return nil
}

func same(wanted sentMessage, found *primitive.MessageExt) error {
	if len(found.Body) != wanted.bodySize || hash(found.Body) != wanted.bodySha256 {
		return fmt.Errorf("body of %d bytes differs from the %d sent with keys %s", len(found.Body), wanted.bodySize, wanted.keys)
	}
	texts := []struct{ what, wanted, found string }{
		{"topic", wanted.topic, found.Topic},
		{"keys", wanted.keys, found.GetKeys()},
		{"tags", wanted.tags, found.GetTags()},
		{"place", fmt.Sprintf("%d/%d", wanted.queue, wanted.offset), fmt.Sprintf("%d/%d", found.Queue.QueueId, found.QueueOffset)},
		{"properties", fmt.Sprint(wanted.properties), fmt.Sprint(userProperties(found))},
	}
	if wanted.msgID != "" {
		texts = append(texts, struct{ what, wanted, found string }{"message id", wanted.msgID, found.MsgId})
	}
	if wanted.offsetMsgID != "" {
		texts = append(texts, struct{ what, wanted, found string }{"offset message id", wanted.offsetMsgID, found.OffsetMsgId})
	}
	for _, t := range texts {
		if t.wanted != t.found {
			return fmt.Errorf("%s: wanted <%s>, found <%s>", t.what, t.wanted, t.found)
		}
	}
	return nil
}

// The result prints like the sent properties: fmt sorts the names of a map, and no properties are an empty map.
func userProperties(m *primitive.MessageExt) map[string]string {
	properties := map[string]string{}
	for name, value := range m.GetProperties() {
		properties[name] = value
	}
	for _, name := range systemProperties {
		delete(properties, name)
	}
	return properties
}

// One consumer polls a queue to its end and acknowledges; the next one must find the offset.
func commitOffset(t target, sent []sentMessage) (string, error) {
	topic, group := sent[0].topic, t.topic("commit")
	at := &primitive.MessageQueue{Topic: topic, BrokerName: sent[0].broker, QueueId: sent[0].queue}
	wanted := len(byQueue(sent)[fmt.Sprintf("%s/%d", at.BrokerName, at.QueueId)])
	first, _, err := newConsumer(t, group, group+"_1", topic, at)
	if err != nil {
		return "", err
	}
	deadline := time.Now().Add(2 * pullTimeout)
	for got := 0; got < wanted; {
		if time.Now().After(deadline) {
			return "", fmt.Errorf("polled %d of %d messages", got, wanted)
		}
		request, err := first.Poll(context.Background(), time.Second)
		if consumer.IsNoNewMsgError(err) {
			continue
		} else if err != nil {
			return "", err
		}
		got += len(request.GetMsgList())
		first.ACK(context.Background(), request, consumer.ConsumeSuccess)
	}
	if err := first.PersistOffset(context.Background(), topic); err != nil {
		return "", err
	}
	if err := first.Shutdown(); err != nil {
		return "", err
	}
	// Commits are one-way requests; each look needs a new consumer, because a consumer remembers.
	for i := 2; ; i++ {
		next, _, err := newConsumer(t, group, fmt.Sprintf("%s_%d", group, i), topic)
		if err != nil {
			return "", err
		}
		offset, err := next.CurrentOffset(at)
		next.Shutdown()
		if err != nil || offset == int64(wanted) {
			return fmt.Sprintf("offset %d", offset), err
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("committed offset is %d, wanted %d", offset, wanted)
		}
	}
}
