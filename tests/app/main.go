// resolve looks names up with Go's own resolver. It is linked statically, so it stands for the programs that never see libc:
//
//	resolve [-tcp] NAME                       prints the addresses of NAME, one a line
//	resolve -for 10s -every 40ms NAME...      asks for the names in turn and prints how many lookups were made and which failed
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

type report struct {
	Lookups int      `json:"lookups"`
	Failed  []string `json:"failed"`
}

func main() {
	tcp := flag.Bool("tcp", false, "ask over TCP")
	duration := flag.Duration("for", 0, "go on asking for this long")
	every := flag.Duration("every", 40*time.Millisecond, "the time between two lookups")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "resolve: which NAME?")
		os.Exit(2)
	}

	resolver := &net.Resolver{PreferGo: true}
	if *tcp {
		resolver.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	if *duration > 0 {
		load(resolver, *duration, *every, flag.Args())
		return
	}
	addresses, err := resolver.LookupHost(context.Background(), flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "resolve:", err)
		os.Exit(1)
	}
	for _, address := range addresses {
		fmt.Println(address)
	}
}

// load starts one lookup at each tick and waits for no answer before the next: a resolver that stalls is asked on.
func load(resolver *net.Resolver, duration, every time.Duration, names []string) {
	var (
		pending sync.WaitGroup
		lock    sync.Mutex
		result  = report{Failed: []string{}}
	)
	for began := time.Now(); time.Since(began) < duration; time.Sleep(every) {
		name := names[result.Lookups%len(names)]
		result.Lookups++
		pending.Add(1)
		go func() {
			defer pending.Done()
			if _, err := resolver.LookupHost(context.Background(), name); err != nil {
				lock.Lock()
				defer lock.Unlock()
				result.Failed = append(result.Failed, err.Error())
			}
		}()
	}
	pending.Wait()
	_ = json.NewEncoder(os.Stdout).Encode(result)
}
