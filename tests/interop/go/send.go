package main

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const (
	sendTimeout = 10 * time.Second
	mib         = 1 << 20
)

type sender struct {
	target
	plain   rocketmq.Producer
	ordered rocketmq.Producer // picks the queue by sharding key
}

// Runs the producer's cases. Returns what the passed ones sent.
func sendAll(t target, r *report) []sentMessage {
	s := sender{target: t}
	var sent []sentMessage
	r.check("producers start", func() (string, error) { return "", s.start() })
	if s.plain == nil || s.ordered == nil {
		return nil
	}
	defer s.plain.Shutdown()
	defer s.ordered.Shutdown()
	cases := []struct {
		name string
		send func() ([]sentMessage, error)
	}{
		{"sync, bodies of 1 B to 4 MiB, tags, keys, properties", s.sync},
		{"async, 200 messages", s.async},
		{"one-way, 50 messages", s.oneWay},
		{"batch, 3 of 40 messages", s.batch},
		{"queue by sharding key", s.sharded},
	}
	for _, c := range cases {
		r.check(c.name, func() (string, error) {
			got, err := c.send()
			if err != nil {
				return "", err
			}
			sent = append(sent, got...)
			return fmt.Sprintf("%d messages", len(got)), nil
		})
	}
	return sent
}

func (s *sender) start() (err error) {
	if s.plain, err = s.newProducer("plain"); err != nil {
		return err
	}
	s.ordered, err = s.newProducer("ordered", producer.WithQueueSelector(producer.NewHashQueueSelector()))
	return err
}

func (s *sender) newProducer(name string, more ...producer.Option) (rocketmq.Producer, error) {
	options := append([]producer.Option{
		producer.WithNameServer(s.namesrv), producer.WithGroupName(s.topic("producer_" + name)), producer.WithInstanceName(s.topic(name)),
		producer.WithRetry(0), producer.WithSendMsgTimeout(sendTimeout),
	}, more...)
	p, err := rocketmq.NewProducer(options...)
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

func (s *sender) message(topic, tags, keys string, body []byte, properties map[string]string) (*primitive.Message, sentMessage) {
	m := primitive.NewMessage(s.topic(topic), body).WithTag(tags).WithKeys([]string{keys})
	for name, value := range properties {
		m.WithProperty(name, value)
	}
	return m, unplaced(m, properties)
}

// Chinese text when compressible, so that sizes cut characters anywhere.
func body(size int, compressible bool) []byte {
	b := make([]byte, size)
	if compressible {
		text := "Go 客户端发来的消息；"
		for i := range b {
			b[i] = text[i%len(text)]
		}
	} else {
		rand.New(rand.NewSource(int64(size))).Read(b)
	}
	return b
}

func (s *sender) sendSync(p rocketmq.Producer, m *primitive.Message, expected sentMessage) (sentMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	result, err := p.SendSync(ctx, m)
	if err != nil {
		return expected, fmt.Errorf("%s: %w", expected.keys, err)
	}
	return expected.placed(result, 0)
}

func (s *sender) sync() (sent []sentMessage, err error) {
	// Random bytes grow when this client compresses them; the broker counts what arrives.
	sizes := map[bool][]int{true: {1, 4095, 4096, 4097, 65536, mib, 4 * mib}, false: {1, 100, 4096, 4097, 65536, mib, 4*mib - 65536}}
	for _, compressible := range []bool{true, false} {
		for _, size := range sizes[compressible] {
			m, expected := s.message("sync", "从Go", fmt.Sprintf("go-%v-%d", compressible, size), body(size, compressible),
				map[string]string{"来源": "Go 客户端", "emoji": "🎉𠮷", "signs": "a=b&c \"d\" \\ 'e'"})
			one, err := s.sendSync(s.plain, m, expected)
			if err != nil {
				return nil, err
			}
			sent = append(sent, one)
		}
	}
	return sent, nil
}

func (s *sender) async() ([]sentMessage, error) {
	const count = 200
	var lock sync.Mutex
	var sent []sentMessage
	var failure error
	answers := make(chan struct{}, count)
	for i := 0; i < count; i++ {
		m, expected := s.message("async", "async", fmt.Sprintf("go-async-%d", i), body(1+i*23, i%2 == 0), nil)
		err := s.plain.SendAsync(context.Background(), func(_ context.Context, result *primitive.SendResult, err error) {
			lock.Lock()
			defer lock.Unlock()
			one := expected
			if err == nil {
				one, err = expected.placed(result, 0)
			}
			if err != nil {
				failure = err
			}
			sent = append(sent, one)
			answers <- struct{}{}
		}, m)
		if err != nil {
			return nil, err
		}
	}
	deadline := time.After(2 * sendTimeout)
	for i := 0; i < count; i++ {
		select {
		case <-answers:
		case <-deadline:
			return nil, fmt.Errorf("%d of %d answers came in %v", i, count, 2*sendTimeout)
		}
	}
	lock.Lock()
	defer lock.Unlock()
	return sent, failure
}

func (s *sender) oneWay() (sent []sentMessage, err error) {
	for i := 0; i < 50; i++ {
		m, expected := s.message("oneway", "oneway", fmt.Sprintf("go-oneway-%d", i), body(1+i*101, i%2 == 0), nil)
		if err := s.plain.SendOneWay(context.Background(), m); err != nil {
			return nil, err
		}
		sent = append(sent, expected)
	}
	return sent, nil
}

func (s *sender) batch() (sent []sentMessage, err error) {
	for round := 0; round < 3; round++ {
		var messages []*primitive.Message
		var expected []sentMessage
		for i := 0; i < 40; i++ {
			m, one := s.message("batch", "批", fmt.Sprintf("go-batch-%d-%d", round, i), body(1+i, i%2 == 0), map[string]string{"序号": fmt.Sprint(i)})
			messages, expected = append(messages, m), append(expected, one)
		}
		ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
		result, err := s.plain.SendSync(ctx, messages...)
		cancel()
		if err != nil {
			return nil, err
		}
		for i, one := range expected {
			placed, err := one.placed(result, i)
			if err != nil {
				return nil, err
			}
			sent = append(sent, placed)
		}
	}
	return sent, nil
}

func (s *sender) sharded() (sent []sentMessage, err error) {
	queues := map[string]string{}
	for i := 0; i < 100; i++ {
		key := fmt.Sprintf("order-%d", i%8)
		m, expected := s.message("ordered", key, fmt.Sprintf("go-%s-%d", key, i), body(20, true), nil)
		m.WithShardingKey(key)
		expected.properties = map[string]string{primitive.PropertyShardingKey: key}
		one, err := s.sendSync(s.ordered, m, expected)
		if err != nil {
			return nil, err
		}
		queue := fmt.Sprintf("%s/%d", one.broker, one.queue)
		if before, seen := queues[key]; seen && before != queue {
			return nil, fmt.Errorf("%s went to %s and to %s", key, before, queue)
		}
		queues[key] = queue
		sent = append(sent, one)
	}
	return sent, nil
}
