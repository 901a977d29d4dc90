package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/unibiomed/go-unibiomed/bindings"
)

// A machine is what measurements and complaints should name. Fields that the system does not tell are zero.
type machine struct {
	CPU         string   `json:"cpu,omitempty"`
	Features    []string `json:"cpu_features,omitempty"` // those that matter to matrix products
	Cores       int      `json:"physical_cores,omitempty"`
	Processors  int      `json:"processors"` // that this process may use
	MemoryTotal uint64   `json:"memory_total_bytes,omitempty"`
	MemoryFree  uint64   `json:"memory_available_bytes,omitempty"`
	System      string   `json:"system"`
	Go          string   `json:"go"`
	Library     string   `json:"library,omitempty"` // versions, backends, instruction sets
	Linkage     string   `json:"linkage"`           // how the library was found
}

func thisMachine() (machine, error) {
	m := machine{
		Processors: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
	}
	m.readCPU()
	memory := procFields("/proc/meminfo")
	m.MemoryTotal, m.MemoryFree = memory["MemTotal"], memory["MemAvailable"]
	info, err := bindings.BuildInfo()
	m.Library, m.Linkage = info, linkedHow
	if path := mappedLibrary(); path != "" {
		m.Linkage += ": " + path
	}
	return m, err
}

// matrixFeatures are instruction sets that kernels of matrix products look for, as Linux names them.
var matrixFeatures = []string{
	"avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
	"asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
}

func (m *machine) readCPU() {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return
	}
	defer f.Close()
	type core struct{ socket, id string }
	cores := map[core]bool{}
	var socket string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = value
		case "physical id":
			socket = value
		case "core id":
			cores[core{socket, value}] = true
		case "flags", "Features":
			if m.Features == nil {
				have := map[string]bool{}
				for _, f := range strings.Fields(value) {
					have[f] = true
				}
				for _, f := range matrixFeatures {
					if have[f] {
						m.Features = append(m.Features, f)
					}
				}
			}
		}
	}
	m.Cores = len(cores)
}

// procFields reads "Name:  12 kB" lines as bytes.
func procFields(path string) map[string]uint64 {
	fields := map[string]uint64{}
	data, err := os.ReadFile(path)
	if err != nil {
		return fields
	}
	for line := range strings.Lines(string(data)) {
		name, rest, _ := strings.Cut(line, ":")
		if words := strings.Fields(rest); len(words) == 2 && words[1] == "kB" {
			if n, err := strconv.ParseUint(words[0], 10, 64); err == nil {
				fields[name] = n << 10
			}
		}
	}
	return fields
}

// residentMemory returns the resident bytes of the process, now and at its peak; zero where the system does not tell.
func residentMemory() (now, peak uint64) {
	status := procFields("/proc/self/status")
	return status["VmRSS"], status["VmHWM"]
}

// resetPeak makes the peak start anew, where the system can.
func resetPeak() { os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// mappedLibrary returns the path of the shared library in this process, "" when it is linked in or the system does not tell.
func mappedLibrary() string {
	data, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) >= 6 && strings.Contains(filepath.Base(fields[5]), "libunibiomed") {
			return fields[5]
		}
	}
	return ""
}

// bytesText prints a size for people.
func bytesText(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
