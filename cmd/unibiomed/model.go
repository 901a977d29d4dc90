package main

import (
	"context"
	"errors"
	"os"

	"github.com/unibiomed/go-unibiomed/models"
	"github.com/unibiomed/go-unibiomed/unibiomed"
)

// modelFlags say which model answers, and where. Every verb that computes has them.
type modelFlags struct {
	Model       string    `short:"m" env:"UNIBIOMED_MODEL" placeholder:"DIR" help:"Model folder. Default: unibiomed-nano, which is part of the command."`
	Device      string    `default:"auto" placeholder:"NAME" help:"auto, cpu, or a device that doctor lists, such as cuda0."`
	Threads     int       `placeholder:"N" help:"CPU threads. Default: the number of physical cores."`
	Context     int       `placeholder:"N" help:"Positions of a conversation. Default: 8192, or what the model was trained for."`
	KVCache     string    `name:"kv-cache" enum:"auto,f32,f16,q8_0" default:"auto" placeholder:"TYPE" help:"Type of the language model's cache: auto, f32, f16 or q8_0. Default: f32 for an f32 model, else f16."`
	Exact       exactFlag `help:"On a CPU, f32 arithmetic throughout, whatever the weights' type; on a GPU, products of f32 weights in f32. Slower, to compare with."`
	MemoryLimit uint64    `placeholder:"BYTES" help:"Refuse a model whose plan needs more. Default: what is free."`
}

// An exactFlag is set before the native library is first used, which reads the variables once (docs/performance.md).
type exactFlag bool

func (e exactFlag) AfterApply() error {
	if !e {
		return nil
	}
	// oneDNN's int8 and bf16; cuBLAS' TF32; ggml-vulkan's f16.
	return errors.Join(os.Setenv("UNIBIOMED_ACCEL", "exact"), os.Setenv("NVIDIA_TF32_OVERRIDE", "0"), os.Setenv("GGML_VK_DISABLE_F16", "1"))
}

func (f modelFlags) validate() error {
	if f.Threads < 0 {
		return usagef("--threads: %d is not a number of threads", f.Threads)
	}
	if f.Context < 0 {
		return usagef("--context: %d is not a number of positions", f.Context)
	}
	return nil
}

func (f modelFlags) options() unibiomed.Options {
	o := unibiomed.Options{Device: f.Device, Threads: f.Threads, Context: f.Context, MemoryLimit: f.MemoryLimit, KVCache: f.KVCache}
	if o.Device == "auto" {
		o.Device = ""
	}
	return o
}

// dir is the model folder that the flags name, or that of the embedded model.
func (f modelFlags) dir() (string, error) {
	if f.Model == "" {
		return models.Nano()
	}
	if _, err := os.Stat(f.Model); err != nil {
		return "", err
	}
	return f.Model, nil
}

func (f modelFlags) open(ctx context.Context) (*unibiomed.Pipeline, error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	dir, err := f.dir()
	if err != nil {
		return nil, err
	}
	return unibiomed.Open(ctx, dir, f.options())
}
