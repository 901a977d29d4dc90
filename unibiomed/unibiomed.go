// Package unibiomed answers about biomedical images in words and masks, offline, with the UniBiomed model.
//
// A Pipeline is opened once from a model folder and serves many calls:
//
//	p, err := unibiomed.Open(ctx, "unibiomed-1b-q8_0", unibiomed.Options{})
//	defer p.Close()
//	img, err := imaging.DecodeFile("ct.png", imaging.Options{})
//	res, err := p.Segment(ctx, unibiomed.Input{Image: img}, []string{"liver in abdomen CT"})
//
// What an answer costs is kept: SAM 2 features and vision embeddings by image, and the language model's prefix, so a second
// question about an image costs its own tokens only.
//
// Research use only. Nothing here is a medical device, and no output is a diagnosis.
package unibiomed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// Notice stands in every result.
const Notice = "Research use only. Not a medical device; not for diagnosis or treatment."

// DefaultMaxNewTokens is the reference's length limit of an answer.
const DefaultMaxNewTokens = 2048

// Options configure Open. The zero value is ready to use.
type Options struct {
	// Device is a name listed by Devices. It defaults to the first GPU, then the CPU.
	Device string
	// Threads is the number of CPU threads. It defaults to the number of physical cores.
	Threads int
	// MemoryLimit in bytes refuses to open a model whose plan needs more. It defaults to what is free.
	MemoryLimit uint64
	// Context is the number of positions of a conversation: image, prompt and answer. It defaults to 8192, or to what
	// the model was trained for.
	Context int
	// TileBatch is the number of tiles that a vision pass takes. It defaults to a number chosen by device.
	TileBatch int
	// KVCache is the type of the language model's cache: "f32", "f16" or "q8_0", which halves f16's memory at some loss.
	// It defaults to f32 for a model in f32, else f16.
	KVCache string
	// CacheBytes bounds what is kept of images already seen. It defaults to 256 MiB; negative keeps nothing.
	CacheBytes int64
	// Progress, when set, hears how opening goes on, 0 to 1.
	Progress func(done float64)
}

// A Pipeline holds an opened model.
// It is safe for concurrent use; calls queue for the device in arrival order, and a call whose context ends leaves the queue.
type Pipeline struct {
	options   Options
	manifest  checkpoint.Manifest
	dir       string
	model     *bindings.Model
	info      bindings.Info
	tokenizer *prompt.Tokenizer
	ids       tokenIDs

	queue  *semaphore.Weighted // one call computes at a time
	mu     sync.Mutex          // guards closed
	closed bool

	// What follows belongs to the call that holds the queue.
	images  *imageCache
	session *session
}

// tokenIDs are the added tokens that the pipeline reads and writes itself.
type tokenIDs struct{ seg, context, eos int32 }

// ErrClosed is returned by calls on a closed Pipeline.
var ErrClosed = errors.New("unibiomed: the pipeline is closed")

// Open opens the model folder dir, after checking that its files are those that model.json names, belong together and
// fit in memory. It does not read the weights: verify their checksums with checkpoint.Verify.
// Errors: checkpoint.FormatError and bindings.Error.
func Open(ctx context.Context, dir string, o Options) (*Pipeline, error) {
	manifest, err := checkpoint.ReadModel(dir)
	if err != nil {
		return nil, err
	}
	if err := checkpoint.CheckFiles(dir, manifest); err != nil {
		return nil, err
	}
	files := ModelFiles(dir)
	model, err := bindings.Open(ctx, files, o.params(), bindings.Call{Progress: func(done float32) {
		if o.Progress != nil {
			o.Progress(float64(done))
		}
	}})
	if err != nil {
		return nil, err
	}
	p := &Pipeline{options: o, manifest: manifest, dir: dir, model: model, info: model.Info(), queue: semaphore.NewWeighted(1)}
	budget := cmp.Or(o.CacheBytes, 256<<20)
	p.images = newImageCache(budget)
	if err := p.readTokens(); err != nil {
		model.Close()
		return nil, err
	}
	return p, nil
}

func (o Options) params() bindings.Params {
	return bindings.Params{Device: o.Device, Threads: o.Threads, MemoryLimit: o.MemoryLimit, Context: o.Context, TileBatch: o.TileBatch, KVCache: o.KVCache}
}

// ModelFiles returns the three files of a model folder.
func ModelFiles(dir string) bindings.Files {
	return bindings.Files{
		Language:  filepath.Join(dir, checkpoint.LanguageFile),
		Vision:    filepath.Join(dir, checkpoint.VisionFile),
		Grounding: filepath.Join(dir, checkpoint.GroundingFile),
	}
}

// PlanMemory returns the bytes that Open and one answer will take, before anything is allocated.
func PlanMemory(dir string, o Options) (bindings.Plan, error) {
	if _, err := os.Stat(dir); err != nil {
		return bindings.Plan{}, err
	}
	return bindings.PlanMemory(ModelFiles(dir), o.params())
}

// readTokens loads the tokenizer and checks that model.json and the tokenizer name the same ids.
func (p *Pipeline) readTokens() error {
	added := func(id int32) bool { return p.model.TokenKind(id)&bindings.TokenAdded != 0 }
	t, err := prompt.NewTokenizer(p.model, p.info.Vocab, added)
	if err != nil {
		return err
	}
	p.tokenizer = t
	for _, want := range []struct {
		field, text string
		id          int32
	}{
		{"tokens.seg", prompt.Seg, p.manifest.Tokens.Seg},
		{"tokens.img_context", prompt.ImageContext, p.manifest.Tokens.ImgContext},
		{"tokens.img_start", prompt.ImageStart, p.manifest.Tokens.ImgStart},
		{"tokens.img_end", prompt.ImageEnd, p.manifest.Tokens.ImgEnd},
	} {
		if got, ok := t.ID(want.text); !ok || got != want.id {
			return &checkpoint.FormatError{
				File:  filepath.Join(p.dir, checkpoint.ManifestFile),
				Field: want.field,
				Got:   fmt.Sprint(want.id),
				Want:  fmt.Sprintf("the id of %s in %s", want.text, checkpoint.LanguageFile),
			}
		}
	}
	p.ids = tokenIDs{seg: p.manifest.Tokens.Seg, context: p.manifest.Tokens.ImgContext, eos: p.manifest.Tokens.EOS}
	return nil
}

// Info returns the model's sizes.
func (p *Pipeline) Info() bindings.Info { return p.info }

// Manifest returns what model.json says.
func (p *Pipeline) Manifest() checkpoint.Manifest { return p.manifest }

// Stats returns the totals of each stage since Open.
func (p *Pipeline) Stats() ([]bindings.StageStats, error) { return p.model.Stats() }

// Native returns the opened model, for benchmarks and stage tests. Do not close it.
func (p *Pipeline) Native() *bindings.Model { return p.model }

// Tokenizer returns the model's tokenizer.
func (p *Pipeline) Tokenizer() *prompt.Tokenizer { return p.tokenizer }

// Close frees the model. It waits for the call in progress and is safe to repeat; later calls return ErrClosed.
func (p *Pipeline) Close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	already := p.closed
	p.closed = true
	p.mu.Unlock()
	if already {
		return nil
	}
	p.queue.Acquire(context.Background(), 1)
	defer p.queue.Release(1)
	p.images.clear()
	if p.session != nil {
		p.session.native.Close()
		p.session = nil
	}
	return p.model.Close()
}

// acquire waits for the device. The caller calls the returned function when it is done.
func (p *Pipeline) acquire(ctx context.Context) (release func(), err error) {
	if err := p.queue.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.queue.Release(1)
		return nil, ErrClosed
	}
	return func() { p.queue.Release(1) }, nil
}
