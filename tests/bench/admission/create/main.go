// create creates pods at a fixed rate, and tells how long the API server says that a webhook took of it, by the metric
// apiserver_admission_webhook_admission_duration_seconds. It prints one line of JSON.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const metric = "apiserver_admission_webhook_admission_duration_seconds"

// result is what is printed. Times are in milliseconds.
type result struct {
	Kind      string  `json:"kind"`
	Name      string  `json:"name"`
	Pods      int     `json:"pods"`
	Failed    int     `json:"failed"`
	Failure   string  `json:"failure,omitempty"`
	Rate      float64 `json:"ratePerSecond"`
	CreateP50 float64 `json:"createP50Milliseconds"`
	CreateP99 float64 `json:"createP99Milliseconds"`
	// Calls, and what follows, is of the webhook, as the API server counts and measures it. A second call for a pod counts again.
	Calls   int       `json:"calls"`
	Mean    float64   `json:"webhookMeanMilliseconds"`
	P50     float64   `json:"webhookP50Milliseconds"`
	P99     float64   `json:"webhookP99Milliseconds"`
	Bounds  []float64 `json:"bucketMilliseconds"`
	Buckets []int     `json:"bucketCounts"`
}

// histogram is a metric's, with counts that grow from bucket to bucket.
type histogram struct {
	bounds []float64
	counts []int
	sum    float64
	count  int
}

var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// read adds up the histograms of a webhook over its other labels.
func read(client kubernetes.Interface, webhook string) (histogram, error) {
	text, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(context.Background())
	if err != nil {
		return histogram{}, err
	}
	read, buckets := histogram{}, map[float64]int{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, metric) {
			continue
		}
		labels := map[string]string{}
		for _, found := range label.FindAllStringSubmatch(line, -1) {
			labels[found[1]] = found[2]
		}
		if labels["name"] != webhook {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return histogram{}, err
		}
		switch {
		case strings.HasPrefix(line, metric+"_bucket"):
			bound, err := strconv.ParseFloat(labels["le"], 64)
			if err != nil {
				return histogram{}, err
			}
			buckets[bound] += int(value)
		case strings.HasPrefix(line, metric+"_sum"):
			read.sum += value
		case strings.HasPrefix(line, metric+"_count"):
			read.count += int(value)
		}
	}
	for bound := range buckets {
		read.bounds = append(read.bounds, bound)
	}
	slices.Sort(read.bounds)
	for _, bound := range read.bounds {
		read.counts = append(read.counts, buckets[bound])
	}
	return read, lines.Err()
}

// since is what has been added to an earlier reading.
func (h histogram) since(earlier histogram) histogram {
	added := histogram{bounds: h.bounds, sum: h.sum - earlier.sum, count: h.count - earlier.count}
	for at, count := range h.counts {
		if at < len(earlier.counts) {
			count -= earlier.counts[at]
		}
		added.counts = append(added.counts, count)
	}
	return added
}

// quantile is what Prometheus's histogram_quantile says: even within a bucket.
func (h histogram) quantile(share float64) float64 {
	rank, below, from := share*float64(h.count), 0, 0.0
	for at, count := range h.counts {
		if float64(count) >= rank && count > below {
			if math.IsInf(h.bounds[at], 1) {
				return from
			}
			return from + (h.bounds[at]-from)*(rank-float64(below))/float64(count-below)
		}
		below, from = count, h.bounds[at]
	}
	return from
}

func run() error {
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "how the API server is reached")
	file := flag.String("pod", "", "the pod, in JSON, without a name")
	namespace := flag.String("namespace", "default", "where they are created")
	webhook := flag.String("webhook", "", "the webhook's name")
	name := flag.String("name", "", "what it is called in the table")
	rate := flag.Float64("rate", 50, "pods a second")
	warm := flag.Duration("warm", 2*time.Second, "created before, and not counted")
	lasting := flag.Duration("lasting", time.Minute, "how long it is measured")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(text, pod); err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	pod.Namespace = *namespace

	var mutex sync.Mutex
	result := result{Kind: "api", Name: *name}
	var latencies []time.Duration
	create := func() {
		sent := time.Now()
		_, err := client.CoreV1().Pods(*namespace).Create(context.Background(), pod.DeepCopy(), metav1.CreateOptions{})
		taken := time.Since(sent)
		mutex.Lock()
		defer mutex.Unlock()
		if err != nil {
			result.Failed++
			result.Failure = err.Error()
			return
		}
		latencies = append(latencies, taken)
	}
	pace := func(lasting time.Duration) int {
		began, interval := time.Now(), time.Duration(float64(time.Second) / *rate)
		count := int(lasting / interval)
		var all sync.WaitGroup
		for number := range count {
			time.Sleep(time.Until(began.Add(time.Duration(number) * interval)))
			all.Go(create)
		}
		all.Wait()
		return count
	}
	pace(*warm)
	if result.Failed > 0 {
		return fmt.Errorf("%s", result.Failure)
	}
	latencies = nil
	before, err := read(client, *webhook)
	if err != nil {
		return err
	}
	began := time.Now()
	result.Pods = pace(*lasting)
	result.Rate = float64(result.Pods) / time.Since(began).Seconds()
	after, err := read(client, *webhook)
	if err != nil {
		return err
	}
	added := after.since(before)
	result.Calls = added.count
	if added.count > 0 {
		result.Mean = 1000 * added.sum / float64(added.count)
		result.P50, result.P99 = 1000*added.quantile(0.5), 1000*added.quantile(0.99)
		for at, bound := range added.bounds {
			if !math.IsInf(bound, 1) {
				result.Bounds, result.Buckets = append(result.Bounds, 1000*bound), append(result.Buckets, added.counts[at])
			}
		}
	}
	if len(latencies) > 0 {
		slices.Sort(latencies)
		at := func(share float64) float64 {
			return float64(latencies[min(int(share*float64(len(latencies))), len(latencies)-1)].Microseconds()) / 1000
		}
		result.CreateP50, result.CreateP99 = at(0.5), at(0.99)
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "create:", err)
		os.Exit(1)
	}
}
