package main

import (
	"os"
	"syscall"
)

// peakMemory returns the largest resident size that a finished process had, in bytes.
func peakMemory(s *os.ProcessState) (int64, bool) {
	u, ok := s.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, false
	}
	return u.Maxrss << 10, true
}
