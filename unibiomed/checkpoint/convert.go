// Package checkpoint makes model folders (docs/model-folder.md): Convert from a Hugging Face checkpoint folder, Quantize from
// another model folder. ReadModel and Verify read them back. All of it streams: memory stays at a few rows of a tensor plus the
// tokenizer, whatever the size of the model.
//
// Files that are broken or disagree yield a *FormatError, those of a kind that is not read an *UnsupportedError; a check that finds
// several yields a *ProblemsError of them. Failures of the disk are *fs.PathError, and a canceled context its own error.
package checkpoint

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// Options configure Convert and Quantize. The zero value is ready to use.
type Options struct {
	// Type names of the three parts, of Types. They default to "f32" in Convert, and to what the source has in Quantize.
	Language, Vision, Grounding string
	// Tensors stores single matrices in types of their own. Of several that match a tensor the last one holds.
	Tensors []TensorType
	// MaxError is how much q8_0 may change a matrix: one that it changes more is stored as f16, unless Tensors names it. It is the root mean square
	// over input channels of each channel's relative error, measured on up to 256 rows. 0 stands for DefaultMaxError, less for no bound.
	MaxError float64
	// Quantizer packs the quantized types; f32, f16 and bf16 do without.
	Quantizer Quantizer
	// Name of the model. It defaults to the checkpoint's own name, then to that of the destination folder.
	Name string
	// Overwrite replaces a destination that holds a model and nothing else.
	Overwrite bool
	// Progress is told the bytes of the source that are done, of all, and the tensor or file at hand.
	Progress func(done, total int64, name string)
}

func (o Options) typeName(p Part) string {
	switch p {
	case Language:
		return cmp.Or(o.Language, "f32")
	case Vision:
		return cmp.Or(o.Vision, "f32")
	}
	return cmp.Or(o.Grounding, "f32")
}

func (o Options) typeNames() map[string]string {
	names := map[string]string{}
	for _, p := range Parts() {
		names[string(p)] = o.typeName(p)
	}
	return names
}

// A TensorType gives the matrices whose name matches a pattern another type than their part's.
type TensorType struct {
	Pattern string // of path.Match, for names in the GGUF files (docs/model-folder.md): "blocks.*.mlp.fc2.weight", "blk.0.*"
	Type    string // one of Types that stores all rows alike: no mixture such as q4_k_m
}

// ownType returns the type that Tensors gives a tensor.
func (o Options) ownType(name string) (scheme, bool) {
	for _, t := range slices.Backward(o.Tensors) {
		if ok, _ := path.Match(t.Pattern, name); ok {
			return schemes[t.Type], true
		}
	}
	return scheme{}, false
}

// checkTensors checks Tensors by themselves.
func (o Options) checkTensors() error {
	for _, t := range o.Tensors {
		if _, err := path.Match(t.Pattern, ""); err != nil {
			return fmt.Errorf("checkpoint: type of tensors %q: %w", t.Pattern, err)
		}
		s, ok := schemes[t.Type]
		if !ok || s.base != s.raised {
			return fmt.Errorf("checkpoint: type of tensors %q: got %q, want one of %s", t.Pattern, t.Type, strings.Join(PlainTypes(), " "))
		}
		if s.base.Block() > 1 && o.Quantizer == nil {
			return fmt.Errorf("checkpoint: type of tensors %q: %s needs a Quantizer", t.Pattern, t.Type)
		}
	}
	return nil
}

// schemes returns each part's scheme, or an error that names a bad option.
func (o Options) schemes() (map[Part]scheme, error) {
	if err := o.checkTensors(); err != nil {
		return nil, err
	}
	out := map[Part]scheme{}
	for _, p := range Parts() {
		s, ok := schemes[o.typeName(p)]
		if !ok {
			return nil, fmt.Errorf("checkpoint: type of %s: got %q, want one of %s", p, o.typeName(p), strings.Join(Types(), " "))
		}
		if s.base.Block() > 1 && o.Quantizer == nil {
			return nil, fmt.Errorf("checkpoint: type of %s: %s needs a Quantizer", p, o.typeName(p))
		}
		out[p] = s
	}
	return out, nil
}

// A Summary says what was made.
type Summary struct {
	Model *Manifest // what model.json says
	Parts []PartSummary
}

// A PartSummary counts one file.
type PartSummary struct {
	Part      Part
	Type      string // as asked for
	Bytes     int64
	Tensors   map[string]int // how many are stored in each type
	Fallbacks []Fallback     // tensors whose rows the type can't hold
	Kept      []Kept         // matrices stored as f16 in place of q8_0
}

// A Fallback is a tensor stored in another type than its part's.
type Fallback struct {
	Tensor       string
	RowLength    int64
	Wanted, Used string
}

// A job is one tensor of a model and where it comes from.
type job struct {
	rule rule
	bake *bake      // nil: the tensor of the rule
	keep *gguf.Type // the type to store it in; nil: as the part's scheme says
	read rowReader  // of the source; nil where rows do not lie there as they are stored
	file string     // of the source, for errors
	out  gguf.Tensor
}

// A partFile is one GGUF file being made.
type partFile struct {
	part Part
	kv   []gguf.KV
	jobs []job
	file *stagedFile
	w    *gguf.Writer
}

// Convert makes a model folder at dest from the checkpoint folder at source. Everything that can be checked without reading
// weights is checked before anything is written. dest appears whole or not at all; it must be absent or empty, unless o.Overwrite.
func Convert(ctx context.Context, source, dest string, o Options) (*Summary, error) {
	schemes, err := o.schemes()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	c, err := readConfig(source, files)
	if err != nil {
		return nil, err
	}
	tensors, err := safetensors.OpenFolder(source)
	if err != nil {
		return nil, err
	}
	defer tensors.Close()
	if c.vision.qkvBias == nil {
		_, _, has := tensors.Tensor("vision_model.encoder.layers.0.attn.qkv.bias")
		c.vision.qkvBias = &has
	}
	wanted, bakes := c.tensorRules()
	tok, err := readTokenizer(source, files)
	if err != nil {
		return nil, err
	}
	problems := []error{checkTensors(tensors, wanted, bakes, c.language.tied), tok.checkSize(c.language.vocab)}
	if err := list(flatten(problems)); err != nil {
		return nil, err
	}

	sums := map[string]string{}
	for name, data := range files {
		sum := sha256.Sum256(data)
		sums[name] = hex.EncodeToString(sum[:])
	}
	if tensors.Index {
		data, err := readLimited(filepath.Join(source, safetensors.IndexName), maxTokenizer)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(data)
		sums[safetensors.IndexName] = hex.EncodeToString(sum[:])
	}
	st, err := newStaging(dest, o.Overwrite)
	if err != nil {
		return nil, err
	}
	defer st.discard()

	abs, err := filepath.Abs(source)
	if err != nil {
		return nil, err
	}
	m := &Manifest{
		Schema:       schemaName + schemaVersion,
		Name:         cmp.Or(o.Name, c.extra.name, filepath.Base(st.dest)),
		Description:  c.extra.description,
		Licence:      cmp.Or(c.extra.licence, "not stated by the checkpoint"),
		IntendedUse:  cmp.Or(c.extra.intendedUse, "Research use only. Not a medical device."),
		Source:       Source{Name: filepath.Base(abs), Files: sums},
		Quantization: o.typeNames(),
		Tokens:       tok.tokens,
		Template:     c.template,
	}
	p := &pass{ctx: ctx, o: o, schemes: schemes, tied: c.language.tied, st: st, summary: &Summary{Model: m}, encoder: encoder{quantizer: o.Quantizer}}
	defer p.close()
	kv := map[Part][]gguf.KV{Language: c.languageKeys(tok, m, schemes[Language]), Vision: c.visionKeys(m), Grounding: c.groundingKeys(m)}
	if err := p.open(kv, jobs(tensors, wanted, bakes)); err != nil {
		return nil, err
	}
	if err := p.stream(tensors, sums); err != nil {
		return nil, err
	}
	if err := p.bake(tensors, bakes); err != nil {
		return nil, err
	}
	m.Source.SHA256 = sumOfSums(sums)
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.summary, nil
}

func flatten(errs []error) []error {
	var out []error
	for _, err := range errs {
		if p, ok := err.(*ProblemsError); ok {
			out = append(out, p.Problems...)
		} else if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// sumOfSums is the sha256 of what sha256sum prints for the files.
func sumOfSums(sums map[string]string) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(h, "%s  %s\n", sums[name], name)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// jobs orders the tensors as they stand in the source, so that one pass reads, hashes and writes; the baked ones come last.
func jobs(tensors *safetensors.Folder, wanted []rule, bakes []bake) []job {
	byName := make(map[string]rule, len(wanted))
	for _, r := range wanted {
		byName[r.from] = r
	}
	var out []job
	for _, file := range tensors.Files {
		for _, t := range file.Tensors {
			r, ok := byName[t.Name]
			if !ok {
				continue
			}
			j := job{rule: r, file: file.Name, out: gguf.Tensor{Name: r.to, Shape: r.shape}}
			if !r.deconv {
				j.read = func(row int64, dst []float32) error { return file.ReadFloats(t, row*int64(len(dst)), dst) }
			}
			out = append(out, j)
		}
	}
	for i := range bakes {
		b := &bakes[i]
		out = append(out, job{rule: rule{part: b.part, to: b.to}, bake: b, out: gguf.Tensor{Name: b.to, Shape: b.shape}})
	}
	return out
}

// A pass writes the three files of a model.
type pass struct {
	ctx     context.Context
	o       Options
	schemes map[Part]scheme
	tied    bool
	st      *staging
	files   map[Part]*partFile
	byFrom  map[string]*job
	summary *Summary
	encoder encoder

	done, total int64
	raw         []byte
	values      []float32
}

// open decides every tensor's type and writes the headers.
func (p *pass) open(kv map[Part][]gguf.KV, all []job) error {
	p.files, p.byFrom = map[Part]*partFile{}, map[string]*job{}
	for _, part := range Parts() {
		p.files[part] = &partFile{part: part, kv: kv[part]}
	}
	for _, j := range all {
		f := p.files[j.rule.part]
		f.jobs = append(f.jobs, j)
	}
	if err := p.checkPatterns(all); err != nil {
		return err
	}
	for _, part := range Parts() {
		f := p.files[part]
		s := PartSummary{Part: part, Type: p.o.typeName(part), Tensors: map[string]int{}}
		var tensors []gguf.Tensor
		for i := range f.jobs {
			j := &f.jobs[i]
			scheme := p.schemes[part]
			own, has := p.o.ownType(j.out.Name)
			if has {
				scheme = own
			}
			stored, wanted := scheme.typeOf(part, j.out.Name, j.out.Shape, p.tied)
			if j.keep != nil && !has {
				stored = *j.keep
			} else if p.o.MaxError >= 0 && !has && wanted == gguf.Q8_0 && stored == gguf.Q8_0 && j.read != nil {
				e, err := p.q8Error(*j)
				if err != nil {
					return err
				}
				if e > cmp.Or(p.o.MaxError, DefaultMaxError) {
					stored, wanted = gguf.F16, gguf.F16
					s.Kept = append(s.Kept, Kept{j.out.Name, e})
				}
			}
			j.out.Type = stored
			s.Tensors[stored.String()]++
			if stored != wanted {
				s.Fallbacks = append(s.Fallbacks, Fallback{j.out.Name, j.out.Shape[len(j.out.Shape)-1], wanted.String(), stored.String()})
			}
			tensors = append(tensors, j.out)
			if j.bake == nil {
				p.byFrom[j.rule.from] = j
			}
		}
		var err error
		if f.file, err = p.st.create(part.File()); err != nil {
			return err
		}
		if f.w, err = gguf.NewWriter(f.file, f.kv, tensors); err != nil {
			return err
		}
		s.Bytes = f.w.Size()
		p.summary.Parts = append(p.summary.Parts, s)
	}
	return nil
}

// checkPatterns refuses a pattern of Options.Tensors that no matrix matches.
func (p *pass) checkPatterns(all []job) error {
	for _, t := range p.o.Tensors {
		matches := slices.ContainsFunc(all, func(j job) bool {
			ok, _ := path.Match(t.Pattern, j.out.Name)
			return ok && isMatrix(j.rule.part, j.out.Name, len(j.out.Shape))
		})
		if !matches {
			return fmt.Errorf("checkpoint: type of tensors %q: no matrix has such a name", t.Pattern)
		}
	}
	return nil
}

// block is how many values pass through memory at a time; a longer row passes whole.
const block = 1 << 18

// stream reads every source file once from its first byte to its last, hashes it, and writes its tensors.
func (p *pass) stream(tensors *safetensors.Folder, sums map[string]string) error {
	for _, file := range tensors.Files {
		p.total += file.Size
	}
	for _, file := range tensors.Files {
		h := sha256.New()
		r := io.TeeReader(io.NewSectionReader(file, 0, file.Size), h)
		at := int64(0)
		for _, t := range file.Tensors {
			if err := p.skip(r, t.Start-at, file.Name); err != nil {
				return err
			}
			at = t.Start + t.Bytes
			j := p.byFrom[t.Name]
			var err error
			if j == nil {
				err = p.skip(r, t.Bytes, t.Name)
			} else {
				_, length := j.out.Rows()
				src := stored{file: file.Name, name: t.Name, rowBytes: length * t.DType.Size(), floats: func(dst []float32, src []byte) error {
					return safetensors.Floats(t.DType, dst, src)
				}}
				if j.rule.deconv {
					src.kernels = t.Shape
				}
				err = p.tensor(r, src, j)
			}
			if err != nil {
				return err
			}
		}
		if err := p.skip(r, file.Size-at, file.Name); err != nil {
			return err
		}
		sums[filepath.Base(file.Name)] = hex.EncodeToString(h.Sum(nil))
	}
	return nil
}

func (p *pass) skip(r io.Reader, n int64, name string) error {
	for n > 0 {
		if err := p.step(min(n, 4*block), name); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, min(n, 4*block)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n -= min(n, 4*block)
	}
	return nil
}

// step reports n more bytes and looks at the context.
func (p *pass) step(n int64, name string) error {
	p.done += n
	if p.o.Progress != nil {
		p.o.Progress(p.done, p.total, name)
	}
	return context.Cause(p.ctx)
}

// A stored tensor is one of a source file: its rows come as bytes, and floats widens them.
type stored struct {
	file, name string
	rowBytes   int64 // of a row of the job's tensor
	floats     func(dst []float32, src []byte) error
	kernels    []int64 // shape of a transposed convolution whose rows are to be spread; nil otherwise
}

// tensor copies one tensor, a block of rows at a time.
func (p *pass) tensor(r io.Reader, src stored, j *job) error {
	rows, length := j.out.Rows()
	per := max(1, block/length)
	if src.kernels != nil {
		per = rows // small, and its rows come from all over it
	}
	for row := int64(0); row < rows; row += per {
		n := min(per, rows-row)
		if err := p.step(n*src.rowBytes, src.name); err != nil {
			return err
		}
		p.raw, p.values = grow(p.raw, n*src.rowBytes), grow(p.values, n*length)
		if _, err := io.ReadFull(r, p.raw); err != nil {
			return fmt.Errorf("%s: tensor %s: %w", src.file, src.name, err)
		}
		if err := src.floats(p.values, p.raw); err != nil {
			return err
		}
		values := p.values
		if src.kernels != nil {
			values = spreadKernels(values, src.kernels)
		}
		if err := p.write(j, values, n, length, src.file, src.name, row*length); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) write(j *job, values []float32, rows, length int64, file, name string, first int64) error {
	packed, err := p.encoder.encode(j.out.Type, values, int(rows), int(length), file, name, first)
	if err != nil {
		return err
	}
	return p.files[j.rule.part].w.Write(j.out.Name, packed)
}

func grow[T any](s []T, n int64) []T {
	if int64(cap(s)) < n {
		return make([]T, n)
	}
	return s[:n]
}

// spreadKernels turns [in, out, kh, kw] into [(kh, kw, out), in].
func spreadKernels(values []float32, shape []int64) []float32 {
	in, out, taps := int(shape[0]), int(shape[1]), int(shape[2]*shape[3])
	spread := make([]float32, len(values))
	for i := range in {
		for o := range out {
			for k := range taps {
				spread[(k*out+o)*in+i] = values[(i*out+o)*taps+k]
			}
		}
	}
	return spread
}

// bake computes the baked tensors.
func (p *pass) bake(tensors *safetensors.Folder, bakes []bake) error {
	for _, part := range Parts() {
		for i := range p.files[part].jobs {
			j := &p.files[part].jobs[i]
			if j.bake == nil {
				continue
			}
			var inputs [][]float32
			var name string
			for _, r := range j.bake.from {
				file, t, _ := tensors.Tensor(r.from) // checkTensors found it
				values := make([]float32, t.Elements())
				if err := file.ReadFloats(t, 0, values); err != nil {
					return err
				}
				for i, v := range values {
					if v-v != 0 {
						return fileerr.Format(file.Name, "tensor "+r.from, fmt.Sprintf("%g at element %d", v, i), "finite values")
					}
				}
				inputs, name = append(inputs, values), file.Name
			}
			at := int64(0)
			err := j.bake.rows(inputs, func(values []float32) error {
				if err := p.step(0, j.out.Name); err != nil {
					return err
				}
				at += int64(len(values))
				return p.write(j, values, 1, int64(len(values)), name, j.out.Name, at-int64(len(values)))
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// finish completes the files, writes model.json and puts the folder in place.
func (p *pass) finish() error {
	for _, part := range Parts() {
		f := p.files[part]
		if err := f.w.Close(); err != nil {
			return err
		}
		if err := f.file.finish(); err != nil {
			return err
		}
	}
	p.summary.Model.Files = maps.Clone(p.st.files)
	f, err := p.st.create(ManifestFile)
	if err != nil {
		return err
	}
	defer f.close()
	if err := p.summary.Model.write(f); err != nil {
		return err
	}
	if err := f.finish(); err != nil {
		return err
	}
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	return p.st.commit(p.o.Overwrite)
}

func (p *pass) close() {
	for _, f := range p.files {
		if f.file != nil {
			f.file.close()
		}
	}
}
