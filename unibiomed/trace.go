package unibiomed

import (
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// A Trace collects each stage's whole tensors, f32, under the names and axis orders of golden/README.md.
// It is not safe for concurrent use: give each call its own.
type Trace struct {
	names   []string
	tensors map[string]TraceTensor
}

// A TraceTensor is row-major, slowest axis first.
type TraceTensor struct {
	Shape []int
	Data  []float32
}

// Add keeps a tensor; a later one of the same name replaces it. data is not copied.
func (t *Trace) Add(name string, data []float32, shape ...int) {
	if t == nil {
		return
	}
	if t.tensors == nil {
		t.tensors = map[string]TraceTensor{}
	}
	if _, ok := t.tensors[name]; !ok {
		t.names = append(t.names, name)
	}
	t.tensors[name] = TraceTensor{Shape: slices.Clone(shape), Data: data}
}

// addRows appends rows to a tensor whose first axis counts them: stages that run in batches add to one tensor.
func (t *Trace) addRows(name string, data []float32, shape ...int) {
	if t == nil {
		return
	}
	if have, ok := t.tensors[name]; ok && len(have.Shape) == len(shape) && slices.Equal(have.Shape[1:], shape[1:]) {
		shape = append([]int{have.Shape[0] + shape[0]}, shape[1:]...)
		data = append(have.Data, data...)
	}
	t.Add(name, data, shape...)
}

// rename moves a tensor to another name, if it is there.
func (t *Trace) rename(from, to string) {
	if x, ok := t.tensors[from]; ok && from != to {
		delete(t.tensors, from)
		t.names = slices.DeleteFunc(t.names, func(name string) bool { return name == from })
		t.Add(to, x.Data, x.Shape...)
	}
}

// Names lists the tensors in the order in which they came.
func (t *Trace) Names() []string { return slices.Clone(t.names) }

// Tensor returns a tensor by name.
func (t *Trace) Tensor(name string) (TraceTensor, bool) {
	x, ok := t.tensors[name]
	return x, ok
}

// WriteFile writes all tensors to a safetensors file, whole or not at all.
func (t *Trace) WriteFile(path string) error {
	w, err := safetensors.Create(path)
	if err != nil {
		return err
	}
	for _, name := range t.names {
		x := t.tensors[name]
		if err := w.Add(name, x.Shape, x.Data); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Close()
}
