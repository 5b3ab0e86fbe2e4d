package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const (
	failoverDeadline = 40 * time.Second
	reasonsMax       = 3
)

// What several senders share: acknowledgements go to the manifest immediately, failures are counted.
type outcomes struct {
	sync.Mutex
	manifest     *os.File
	acknowledged int
	failed       int
	reasons      []string
}

// Sends with a producer's default settings, while one of several machines dies.
func sendUntil(t target, stop, manifest string, senders int) (string, error) {
	file, err := os.Create(manifest)
	if err != nil {
		return "", err
	}
	defer file.Close()
	p, err := rocketmq.NewProducer(producer.WithNameServer(t.namesrv), producer.WithGroupName(t.topic("producer_failover")))
	if err != nil {
		return "", err
	}
	if err := p.Start(); err != nil {
		return "", err
	}
	defer p.Shutdown()
	told := func() bool { return exists(stop) }
	deadline := time.Now().Add(failoverDeadline)
	shared := outcomes{manifest: file}
	var running sync.WaitGroup
	for sender := 0; sender < senders; sender++ {
		running.Add(1)
		go func(sender int) {
			defer running.Done()
			for i := 0; !told() && time.Now().Before(deadline); i++ {
				shared.add(sendKeyed(p, t.topic("failover"), fmt.Sprintf("go-failover-%d-%d", sender, i)))
			}
		}(sender)
	}
	running.Wait()
	if !told() {
		return "", fmt.Errorf("nobody told to stop within %v", failoverDeadline)
	}
	found := fmt.Sprintf("%d acknowledged, %d failed", shared.acknowledged, shared.failed)
	if shared.failed > 0 {
		return "", fmt.Errorf("%s: %s", found, strings.Join(shared.reasons, "; "))
	}
	return found, nil
}

func sendKeyed(p rocketmq.Producer, topic, keys string) (sentMessage, error) {
	m := primitive.NewMessage(topic, body(1000, false)).WithTag("failover").WithKeys([]string{keys})
	expected := unplaced(m, nil)
	result, err := p.SendSync(context.Background(), m)
	if err != nil {
		return expected, err
	}
	return expected.placed(result, 0)
}

func (o *outcomes) add(one sentMessage, err error) {
	o.Lock()
	defer o.Unlock()
	if err == nil {
		_, err = fmt.Fprintln(o.manifest, one.line())
		o.acknowledged++
	}
	if err != nil {
		o.failed++
		if o.failed <= reasonsMax {
			o.reasons = append(o.reasons, err.Error())
		}
	}
}
