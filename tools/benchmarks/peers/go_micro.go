// Go: its verbs, each in a loop of its own. One operating-system thread runs goroutines.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

var scale = 1.0

func scaled(operations float64) int { return int(operations*scale) + 1 }

func perOperation(start time.Time, operations int) float64 {
	return float64(time.Since(start).Nanoseconds()) / float64(operations)
}

func yields(count int) float64 {
	rounds := scaled(5e6) / count
	if rounds < 3 {
		rounds = 3
	}
	var all sync.WaitGroup
	all.Add(count)
	start := make(chan struct{})
	for i := 0; i < count; i++ {
		go func() {
			<-start
			for left := rounds; left > 0; left-- {
				runtime.Gosched()
			}
			all.Done()
		}()
	}
	time.Sleep(50 * time.Millisecond) // until they wait
	close(start)
	begun := time.Now()
	all.Wait()
	return perOperation(begun, rounds*count)
}

func spawns() float64 {
	count := scaled(5e5)
	ended := make(chan struct{})
	begun := time.Now()
	for i := 0; i < count; i++ {
		go func() { ended <- struct{}{} }()
		<-ended
	}
	return perOperation(begun, count)
}

func wait(turn chan struct{}, timed bool) {
	if !timed {
		<-turn
		return
	}
	timeout := time.NewTimer(10 * time.Second)
	select {
	case <-turn:
		timeout.Stop()
	case <-timeout.C:
		os.Exit(1)
	}
}

func handoffs(pending int, timed bool) float64 {
	rounds := scaled(1e6)
	for i := 0; i < pending; i++ {
		time.AfterFunc(time.Duration(100+i%977)*time.Second, func() {})
	}
	turns := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	go func() {
		for left := rounds; left > 0; left-- {
			wait(turns[0], timed)
			turns[1] <- struct{}{}
		}
	}()
	begun := time.Now()
	for left := rounds; left > 0; left-- {
		turns[0] <- struct{}{}
		wait(turns[1], timed)
	}
	return perOperation(begun, 2*rounds)
}

func residentKiB() float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	var virtual, resident int
	fmt.Sscan(string(text), &virtual, &resident)
	return float64(resident*os.Getpagesize()) / 1024
}

func parkedMemory(count int) float64 {
	never := make(chan struct{})
	before := residentKiB()
	for i := 0; i < count; i++ {
		go func() { <-never }()
	}
	time.Sleep(200 * time.Millisecond) // until they wait
	return (residentKiB() - before) / float64(count)
}

func main() {
	runtime.GOMAXPROCS(1)
	if factor, err := strconv.ParseFloat(os.Getenv("COPSE_BENCH_SCALE"), 64); err == nil {
		scale = factor
	}
	number := 2
	if len(os.Args) > 2 {
		number, _ = strconv.Atoi(os.Args[2])
	}
	figure := 0.0
	switch os.Args[1] {
	case "yield":
		figure = yields(number)
	case "spawn":
		figure = spawns()
	case "handoff":
		figure = handoffs(0, false)
	case "timed":
		figure = handoffs(number, true)
	case "memory":
		figure = parkedMemory(number)
	default:
		os.Exit(2)
	}
	fmt.Printf("%.3f\n", figure)
}
