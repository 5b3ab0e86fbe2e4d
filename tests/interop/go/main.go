// The Go client programs of the interop suite: sends in every way the stock producer has, and reads
// with the stock pull consumer what it and others sent. Topics PREFIX_go_{sync,async,oneway,batch,ordered}
// must exist, for -failover PREFIX_go_failover, and for -push those in push.go. Manifests are files of Sent lines (sent.go).
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// The longest any case may take.
const caseDeadline = 45 * time.Second

type target struct {
	namesrv []string
	prefix  string
}

func (t target) topic(name string) string { return t.prefix + "_go_" + name }

// A report prints one line per case. Cases may run at the same time.
type report struct {
	sync.Mutex
	label  string
	failed int
}

func (r *report) check(name string, body func() (string, error)) {
	r.checkWithin(caseDeadline, name, body)
}

func (r *report) checkWithin(limit time.Duration, name string, body func() (string, error)) {
	type outcome struct {
		detail string
		err    error
	}
	began := time.Now()
	done := make(chan outcome, 1)
	go func() {
		detail, err := body()
		done <- outcome{detail, err}
	}()
	var got outcome
	select {
	case got = <-done:
	case <-time.After(limit):
		got.err = fmt.Errorf("no result within %v", limit)
	}
	r.Lock()
	defer r.Unlock()
	verdict, detail := "PASS", got.detail
	if got.err != nil {
		r.failed++
		verdict, detail = "FAIL", strings.Join(strings.Fields(got.err.Error()), " ")
	}
	if detail != "" {
		detail = ": " + detail
	}
	fmt.Printf("%s %s: %s (%d ms)%s\n", verdict, r.label, name, time.Since(began).Milliseconds(), detail)
}

func main() {
	namesrv := flag.String("namesrv", "", "addresses of NameServers, parted by ';'")
	prefix := flag.String("prefix", "", "begins the names of all topics and groups")
	label := flag.String("label", "go", "begins every line printed")
	manifest := flag.String("manifest", "", "file to write what was sent to")
	read := flag.String("read", "", "what others sent: NAME=FILE,...")
	failoverConsume := flag.String("failover-consume", "", "consume the topic of -manifest until this file exists and all in the manifest is consumed")
	begun := flag.String("begun", "", "file to create when -failover-consume has consumed a message")
	failover := flag.String("failover", "", "send to PREFIX_go_failover until this file exists; no send may fail")
	senders := flag.Int("senders", 1, "how many send at the same time, with -failover")
	ordered := flag.String("ordered", "", "run a group of orderly consumers on this topic")
	orderedConsume := flag.String("ordered-consume", "", "be one of them, in -group")
	push := flag.Bool("push", false, "run the cases of push consumers")
	sql := flag.String("sql", "", "subscribe to this topic with SQL92")
	crashConsume := flag.String("crash-consume", "", "consume this topic as -members members of -group until -stop exists; deliveries go to -deliveries")
	members := flag.Int("members", 1, "for -crash-consume")
	deliveries := flag.String("deliveries", "", "for -crash-consume")
	stop := flag.String("stop", "", "for -crash-consume")
	group := flag.String("group", "", "for -ordered-consume and -crash-consume")
	flag.Parse()
	rlog.SetLogLevel("fatal")

	t := target{strings.Split(*namesrv, ";"), *prefix}
	r := &report{label: *label}
	if *orderedConsume != "" {
		if err := consumeOrdered(t, *orderedConsume, *group); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	if *crashConsume != "" {
		if err := consumeUntil(t, *crashConsume, *group, *members, *deliveries, *stop); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	if *push {
		runPush(t, r)
		if r.failed > 0 {
			os.Exit(1)
		}
		return
	}
	if *sql != "" {
		r.check("a consumer with SQL92 gets an error at once", func() (string, error) { return refuseSQL(t, *sql) })
		if r.failed > 0 {
			os.Exit(1)
		}
		return
	}
	if *ordered != "" {
		r.checkWithin(orderedDeadline, "orderly consumers: in order, one leaves, one is killed", func() (string, error) {
			return runOrdered(t, *ordered, t.prefix+"_go_ordered_group")
		})
		if r.failed > 0 {
			os.Exit(1)
		}
		return
	}
	if *failoverConsume != "" {
		r.checkWithin(failoverConsumeDeadline, "a push consumer gets every acknowledged message", func() (string, error) {
			return consumeThroughFailovers(t, *failoverConsume, *begun, *manifest)
		})
		if r.failed > 0 {
			os.Exit(1)
		}
		return
	}
	if *failover != "" {
		r.check("no send fails while a machine dies", func() (string, error) {
			return sendUntil(t, *failover, *manifest, *senders)
		})
		if r.failed > 0 {
			os.Exit(1)
		}
		return
	}
	sent := sendAll(t, r)
	if *manifest != "" {
		if err := writeManifest(*manifest, sent); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	readAll(t, r, sent, *read)
	if r.failed > 0 {
		os.Exit(1)
	}
}
