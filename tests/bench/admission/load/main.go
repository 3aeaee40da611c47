// load sends admission reviews to a webhook at a fixed rate, as an API server does: over TLS, by HTTP/2 where the webhook speaks it, with
// the client of Go's standard library. A review is sent when it is due, whether earlier ones were answered or not, so that a webhook
// that falls behind is not spared. Each answer is checked; what was seen is printed as one line of JSON.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// result is what is printed.
type result struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Reviews  int    `json:"reviews"`
	Failed   int    `json:"failed"`
	Failure  string `json:"failure,omitempty"`
	// Rate is that of the answers.
	Rate float64 `json:"ratePerSecond"`
	P50  float64 `json:"p50Milliseconds"`
	P99  float64 `json:"p99Milliseconds"`
	P999 float64 `json:"p999Milliseconds"`
	Most float64 `json:"mostMilliseconds"`
	// CPU is the webhook's processor time for one review.
	CPU float64 `json:"cpuMicroseconds"`
	// Memory is the webhook's resident memory, taken ten times over the run.
	Memory []int `json:"residentKilobytes"`
}

// answer is what is read of an answer.
type answer struct {
	Response struct {
		UID     string `json:"uid"`
		Allowed bool   `json:"allowed"`
		Patch   []byte `json:"patch"`
	} `json:"response"`
}

// load is one run.
type load struct {
	url, expected string
	template      []byte
	client        *http.Client
	mutex         sync.Mutex
	latencies     []time.Duration
	failure       error
	failed        int
	protocol      string
}

func (l *load) send(number int) {
	uid := fmt.Sprintf("5f0d7c26-0000-4a6e-9c1b-%012d", number)
	body := bytes.ReplaceAll(l.template, []byte("$UID"), []byte(uid))
	sent := time.Now()
	protocol, err := l.ask(uid, body)
	taken := time.Since(sent)
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if err != nil {
		l.failed++
		l.failure = err
		return
	}
	l.protocol = protocol
	l.latencies = append(l.latencies, taken)
}

func (l *load) ask(uid string, body []byte) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := l.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	var said answer
	if err := json.Unmarshal(text, &said); err != nil {
		return "", fmt.Errorf("%s: %w", response.Status, err)
	}
	if said.Response.UID != uid || !said.Response.Allowed || !bytes.Contains(said.Response.Patch, []byte(l.expected)) {
		return "", fmt.Errorf("not what was asked for: %.300s", text)
	}
	return response.Proto, nil
}

// pace sends the reviews when each is due.
func (l *load) pace(rate float64, lasting time.Duration, first int) int {
	began, interval := time.Now(), time.Duration(float64(time.Second)/rate)
	count := int(lasting / interval)
	var all sync.WaitGroup
	for number := range count {
		due := began.Add(time.Duration(number) * interval)
		time.Sleep(time.Until(due))
		all.Add(1)
		go func() {
			defer all.Done()
			l.send(first + number)
		}()
	}
	all.Wait()
	return count
}

// review is the review of a pod's creation, as an API server writes it, with $UID in the place of its uid.
func review(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pod := map[string]any{}
	if err := json.Unmarshal(text, &pod); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	metadata, _ := pod["metadata"].(map[string]any)
	kind := map[string]any{"group": "", "version": "v1", "kind": "Pod"}
	resource := map[string]any{"group": "", "version": "v1", "resource": "pods"}
	return json.Marshal(map[string]any{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"request": map[string]any{
			"uid": "$UID", "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
			"namespace": metadata["namespace"], "operation": "CREATE", "object": pod, "oldObject": nil, "dryRun": false,
			"userInfo": map[string]any{"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": []string{"system:serviceaccounts", "system:authenticated"}},
			"options":  map[string]any{"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
		},
	})
}

// usage is the processor time and the resident memory of a process.
func usage(process int) (time.Duration, int, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", process))
	if err != nil {
		return 0, 0, err
	}
	var spent time.Duration
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", process, task.Name()))
		if err != nil {
			continue // it has ended
		}
		nanoseconds, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		spent += time.Duration(nanoseconds)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		if size, found := strings.CutPrefix(line, "VmRSS:"); found {
			kilobytes, err := strconv.Atoi(strings.Fields(size)[0])
			return spent, kilobytes, err
		}
	}
	return 0, 0, errors.New("no VmRSS")
}

func client(authority, address, name string) (*http.Client, error) {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", authority)
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
	}}, nil
}

func milliseconds(latencies []time.Duration, share float64) float64 {
	at := min(int(share*float64(len(latencies))), len(latencies)-1)
	return float64(latencies[at].Microseconds()) / 1000
}

func run() error {
	url := flag.String("url", "", "the webhook, by its name")
	address := flag.String("address", "", "where it listens")
	authority := flag.String("ca", "", "who vouches for it")
	file := flag.String("pod", "", "the pod to be reviewed, in JSON")
	name := flag.String("name", "", "what the webhook is called in the table")
	expected := flag.String("expected", `"dot-proxy"`, "what its patch must hold")
	rate := flag.Float64("rate", 2000, "reviews a second")
	warm := flag.Duration("warm", 5*time.Second, "sent before, and not counted")
	lasting := flag.Duration("lasting", time.Minute, "how long it is measured")
	process := flag.Int("process", 0, "the webhook's process")
	flag.Parse()

	template, err := review(*file)
	if err != nil {
		return err
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(*url, "https://"), "/")
	host, _, _ = strings.Cut(host, ":")
	transport, err := client(*authority, *address, host)
	if err != nil {
		return err
	}
	run := &load{url: *url, expected: *expected, template: template, client: transport}
	sent := run.pace(min(*rate, 200), time.Second, 0)
	if run.failure != nil {
		return run.failure
	}
	// At full rate a failure is a result: a webhook that cannot keep up.
	sent += run.pace(*rate, *warm, sent)
	run.failed, run.failure = 0, nil
	run.latencies = make([]time.Duration, 0, int(*rate*lasting.Seconds())+1)
	before, _, err := usage(*process)
	if err != nil {
		return err
	}
	result := result{Kind: "alone", Name: *name}
	began, reviews := time.Now(), 0
	for range 10 {
		reviews += run.pace(*rate, *lasting/10, sent+reviews)
		_, memory, err := usage(*process)
		if err != nil {
			return err
		}
		result.Memory = append(result.Memory, memory)
	}
	after, _, err := usage(*process)
	if err != nil {
		return err
	}
	result.Protocol, result.Reviews, result.Failed = run.protocol, reviews, run.failed
	result.Rate = float64(len(run.latencies)) / time.Since(began).Seconds()
	if run.failure != nil {
		result.Failure = run.failure.Error()
	}
	if len(run.latencies) > 0 {
		slices.Sort(run.latencies)
		result.P50, result.P99 = milliseconds(run.latencies, 0.5), milliseconds(run.latencies, 0.99)
		result.P999, result.Most = milliseconds(run.latencies, 0.999), milliseconds(run.latencies, 1)
		result.CPU = float64((after - before).Microseconds()) / float64(len(run.latencies))
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
