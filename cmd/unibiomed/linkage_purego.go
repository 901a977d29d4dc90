//go:build !cgo

package main

const linkedHow = "loaded at run time (purego)"
