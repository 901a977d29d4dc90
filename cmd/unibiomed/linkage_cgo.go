//go:build cgo

package main

const linkedHow = "linked into the program (cgo)"
