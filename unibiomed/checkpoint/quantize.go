package checkpoint

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/half"
	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
)

// Quantize makes a model folder at dest from the one at source, with other types. A part whose type is empty in o keeps its type
// and is copied, but for o.Tensors. Parts that change must be stored as f32, f16, bf16 or q8_0. The sums of the source files are checked on the way;
// figures of parity, measured on other weights, are left out. As for Convert, dest appears whole or not at all.
func Quantize(ctx context.Context, source, dest string, o Options) (*Summary, error) {
	m, err := ReadModel(source)
	if err != nil {
		return nil, err
	}
	o.Language = cmp.Or(o.Language, m.Quantization[string(Language)])
	o.Vision = cmp.Or(o.Vision, m.Quantization[string(Vision)])
	o.Grounding = cmp.Or(o.Grounding, m.Quantization[string(Grounding)])
	schemes, err := o.schemes()
	if err != nil {
		return nil, err
	}
	files, err := openParts(source, m)
	if err != nil {
		return nil, err
	}
	defer files.close()
	if err := files.check(source, m); err != nil {
		return nil, err
	}
	_, untied := files[Language].Tensor("output.weight")
	st, err := newStaging(dest, o.Overwrite)
	if err != nil {
		return nil, err
	}
	defer st.discard()

	sums := m.Files
	from := m.Quantization
	m.Name, m.Quantization, m.Files, m.Parity = cmp.Or(o.Name, m.Name), o.typeNames(), nil, nil
	p := &pass{ctx: ctx, o: o, schemes: schemes, tied: !untied, st: st, summary: &Summary{Model: &m}, encoder: encoder{quantizer: o.Quantizer}}
	defer p.close()
	kv := map[Part][]gguf.KV{}
	var all []job
	for _, part := range Parts() {
		f := files[part]
		kv[part] = f.KV
		for i, e := range f.KV {
			switch e.Key {
			case "general.name":
				f.KV[i].Value = m.Name
			case "general.file_type":
				f.KV[i].Value = schemes[part].ftype
			}
		}
		p.total += f.Size
		slices.SortFunc(f.Tensors, func(a, b gguf.Tensor) int { return cmp.Compare(a.Start, b.Start) })
		for _, t := range f.Tensors {
			j := job{rule: rule{part: part, from: t.Name}, file: f.Name, out: gguf.Tensor{Name: t.Name, Shape: t.Shape}}
			if widen := floats(t.Type); widen != nil {
				j.read = func(row int64, dst []float32) error {
					bytes, _ := t.Type.RowBytes(int64(len(dst))) // the reader has checked the shape
					raw := make([]byte, bytes)
					if err := f.Read(t, row*bytes, raw); err != nil {
						return err
					}
					return widen(dst, raw)
				}
			}
			if o.typeName(part) == from[string(part)] {
				j.keep = &t.Type
			}
			all = append(all, j)
		}
	}
	if err := p.open(kv, all); err != nil {
		return nil, err
	}
	for _, part := range Parts() {
		for _, j := range p.files[part].jobs {
			t, _ := files[part].Tensor(j.out.Name)
			if t.Type != j.out.Type && floats(t.Type) == nil {
				return nil, fileerr.Unsupported(files[part].Name, "tensor "+t.Name, t.Type, "f32, f16, bf16 or q8_0 to quantize from")
			}
		}
	}
	for _, part := range Parts() {
		if err := p.requantize(files[part], part, sums[part.File()].SHA256); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.summary, nil
}

// requantize reads one file from its first byte to its last, hashes it, and writes its tensors.
func (p *pass) requantize(f *gguf.File, part Part, sum string) error {
	h := sha256.New()
	r := io.TeeReader(io.NewSectionReader(f, 0, f.Size), h)
	at := int64(0)
	for i := range p.files[part].jobs {
		j := &p.files[part].jobs[i]
		t := f.Tensors[i]
		if err := p.skip(r, t.Start-at, f.Name); err != nil {
			return err
		}
		at = t.Start + t.Bytes
		if t.Type == j.out.Type {
			if err := p.copy(r, f, t, part); err != nil {
				return err
			}
			continue
		}
		_, length := t.Rows()
		row, _ := t.Type.RowBytes(length) // the reader has checked the shape
		if err := p.tensor(r, stored{file: f.Name, name: t.Name, rowBytes: row, floats: floats(t.Type)}, j); err != nil {
			return err
		}
	}
	if err := p.skip(r, f.Size-at, f.Name); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fileerr.Format(f.Name, "sha256", got, sum+", as "+ManifestFile+" says")
	}
	return nil
}

// copy copies a tensor's bytes.
func (p *pass) copy(r io.Reader, f *gguf.File, t gguf.Tensor, part Part) error {
	for left := t.Bytes; left > 0; {
		n := min(left, 4*block)
		if err := p.step(n, t.Name); err != nil {
			return err
		}
		p.raw = grow(p.raw, n)
		if _, err := io.ReadFull(r, p.raw); err != nil {
			return fmt.Errorf("%s: tensor %s: %w", f.Name, t.Name, err)
		}
		if err := p.files[part].w.Write(t.Name, p.raw); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// floats returns what widens whole rows of a type to f32, nil for types that have lost too much to start from.
func floats(t gguf.Type) func(dst []float32, src []byte) error {
	switch t {
	case gguf.F32:
		return func(dst []float32, src []byte) error {
			for i := range dst {
				dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
			}
			return nil
		}
	case gguf.F16:
		return func(dst []float32, src []byte) error {
			for i := range dst {
				dst[i] = half.FromF16(binary.LittleEndian.Uint16(src[2*i:]))
			}
			return nil
		}
	case gguf.BF16:
		return func(dst []float32, src []byte) error {
			for i := range dst {
				dst[i] = half.FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
			}
			return nil
		}
	case gguf.Q8_0: // blocks of an f16 scale and 32 signed bytes
		return func(dst []float32, src []byte) error {
			for b := 0; b < len(dst)/32; b++ {
				in, out := src[34*b:34*b+34], dst[32*b:32*b+32]
				scale := half.FromF16(binary.LittleEndian.Uint16(in))
				for i := range out {
					out[i] = scale * float32(int8(in[2+i]))
				}
			}
			return nil
		}
	}
	return nil
}

// parts are the open files of a model folder.
type parts map[Part]*gguf.File

// openParts opens the files of a model folder, whose sizes must be those of the manifest.
func openParts(dir string, m Manifest) (parts, error) {
	files := parts{}
	for _, part := range Parts() {
		f, err := gguf.Open(filepath.Join(dir, part.File()))
		if err != nil {
			files.close()
			return nil, err
		}
		files[part] = f
		if want := m.Files[part.File()].Size; f.Size != want {
			files.close()
			return nil, fileerr.Format(f.Name, "size", f.Size, fmt.Sprintf("%d bytes, as %s says", want, ManifestFile))
		}
	}
	return files, nil
}

func (p parts) close() {
	for _, f := range p {
		f.Close()
	}
}
