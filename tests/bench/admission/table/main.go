// table makes a table in Markdown of what `load` and `create` printed: the median over the rounds.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
)

// round is a line of either program.
type round struct {
	Kind     string  `json:"kind"`
	Name     string  `json:"name"`
	Protocol string  `json:"protocol"`
	Failed   int     `json:"failed"`
	Failure  string  `json:"failure"`
	Rate     float64 `json:"ratePerSecond"`

	Reviews int     `json:"reviews"`
	P50     float64 `json:"p50Milliseconds"`
	P99     float64 `json:"p99Milliseconds"`
	P999    float64 `json:"p999Milliseconds"`
	CPU     float64 `json:"cpuMicroseconds"`
	Memory  []int   `json:"residentKilobytes"`

	Pods       int       `json:"pods"`
	CreateP50  float64   `json:"createP50Milliseconds"`
	CreateP99  float64   `json:"createP99Milliseconds"`
	Calls      int       `json:"calls"`
	Mean       float64   `json:"webhookMeanMilliseconds"`
	WebhookP50 float64   `json:"webhookP50Milliseconds"`
	WebhookP99 float64   `json:"webhookP99Milliseconds"`
	Bounds     []float64 `json:"bucketMilliseconds"`
	Buckets    []int     `json:"bucketCounts"`
}

func median(rounds []round, of func(round) float64) float64 {
	values := make([]float64, 0, len(rounds))
	for _, round := range rounds {
		values = append(values, of(round))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// within is the share of calls in the first bucket, in percent.
func within(round round) float64 {
	if round.Calls == 0 || len(round.Buckets) == 0 {
		return 0
	}
	return 100 * float64(round.Buckets[0]) / float64(round.Calls)
}

func mebibytes(kilobytes int) string { return fmt.Sprintf("%.1f", float64(kilobytes)/1024) }

func run() error {
	machine := flag.String("machine", "", "what it ran on")
	flag.Parse()
	var names []string
	rounds := map[string][]round{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		round := round{}
		if err := json.Unmarshal(lines.Bytes(), &round); err != nil {
			return err
		}
		if !slices.Contains(names, round.Name) {
			names = append(names, round.Name)
		}
		rounds[round.Kind+round.Name] = append(rounds[round.Kind+round.Name], round)
	}
	fmt.Printf("# Admission\n\n%s\n\n", *machine)
	alone(names, rounds)
	atTheServer(names, rounds)
	for _, all := range rounds {
		for _, round := range all {
			if round.Failed > 0 {
				fmt.Printf("%s: %d failed, such as: %s\n", round.Name, round.Failed, round.Failure)
			}
		}
	}
	return lines.Err()
}

func alone(names []string, rounds map[string][]round) {
	fmt.Print("## The webhook alone, on one processor\n\n")
	fmt.Print("| webhook | answers a second | p50, ms | p99, ms | p99.9, ms | CPU a review, µs | memory, first tenth to last, MiB | failed |\n|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, name := range names {
		all := rounds["alone"+name]
		if len(all) == 0 {
			continue
		}
		failed := 0
		for _, round := range all {
			failed += round.Failed
		}
		last := all[len(all)-1]
		fmt.Printf("| %s (%s) | %.0f | %.2f | %.2f | %.2f | %.0f | %s to %s | %d |\n", name, last.Protocol,
			median(all, func(r round) float64 { return r.Rate }),
			median(all, func(r round) float64 { return r.P50 }),
			median(all, func(r round) float64 { return r.P99 }),
			median(all, func(r round) float64 { return r.P999 }),
			median(all, func(r round) float64 { return r.CPU }),
			mebibytes(all[0].Memory[0]), mebibytes(last.Memory[len(last.Memory)-1]), failed)
	}
	fmt.Println()
}

func atTheServer(names []string, rounds map[string][]round) {
	fmt.Print("## As the API server measures it\n\n")
	fmt.Print("| webhook | pods a second | calls | mean, ms | p50, ms | p99, ms | within the first bucket | creating a pod: p50, ms | p99, ms | failed |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, name := range names {
		all := rounds["api"+name]
		if len(all) == 0 {
			continue
		}
		failed, calls := 0, 0
		for _, round := range all {
			failed += round.Failed
			calls += round.Calls
		}
		first := "–"
		if len(all[0].Bounds) > 0 {
			first = fmt.Sprintf("%.2f %% in %.0f ms", median(all, within), all[0].Bounds[0])
		}
		fmt.Printf("| %s | %.0f | %d | %.2f | %.2f | %.2f | %s | %.2f | %.2f | %d |\n", name,
			median(all, func(r round) float64 { return r.Rate }), calls,
			median(all, func(r round) float64 { return r.Mean }),
			median(all, func(r round) float64 { return r.WebhookP50 }),
			median(all, func(r round) float64 { return r.WebhookP99 }), first,
			median(all, func(r round) float64 { return r.CreateP50 }),
			median(all, func(r round) float64 { return r.CreateP99 }), failed)
	}
	fmt.Println()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}
