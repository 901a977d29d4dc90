package bindings

import (
	"context"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// Files are the paths of a model's three GGUF files. An empty path leaves the part out, and calls that need it fail with
// InvalidArgument.
type Files struct {
	Language  string
	Vision    string
	Grounding string
}

// Params configure a model. The zero value is ready to use.
type Params struct {
	// Device is a name listed by Devices. It defaults to the first GPU, then the CPU.
	Device string
	// Threads is the number of CPU threads. It defaults to the physical cores that this process may use.
	Threads int
	// MemoryLimit is how many bytes the plan may take on the device. It defaults to what is free.
	MemoryLimit uint64
	// Context is the number of positions of a session. It defaults to 8192, or less if the model was trained on less.
	Context int
	// TileBatch is the number of tiles that a vision pass takes. It defaults to a number chosen by device.
	TileBatch int
	// MaskBatch is the number of [SEG] vectors that a decoder pass takes. It defaults to a number chosen by device.
	MaskBatch int
	// KVCache is the type of the KV cache: "f32", "f16" or "q8_0". It defaults to f32 for a model in f32, else f16.
	KVCache string
	// VocabOnly opens the tokenizer and maps no weights.
	VocabOnly bool
}

// A Plan is the memory that a model will take, in bytes, known before any of it is taken.
type Plan struct {
	WeightsLanguage  uint64 // as stored; mapped on the CPU, copied to a GPU
	WeightsVision    uint64
	WeightsGrounding uint64
	KVCache          uint64 // of one session of Params.Context positions
	ComputeLanguage  uint64 // peak working buffers by stage
	ComputeVision    uint64
	ComputeFeatures  uint64 // SAM 2 image encoder
	ComputeMasks     uint64 // mask decoder
	ComputeMemory    uint64 // memory encoder and attention, only taken by volumes
	Features         uint64 // one image's features
	Total            uint64 // peak of a 2D answer: what lives together
	Available        uint64 // what the plan was compared with
}

// Info are the sizes that preprocessing needs, all read from the model's files. They are 0 where the part is absent.
type Info struct {
	Vocab          int
	Embd           int // hidden size of the language model
	Layers         int
	TrainContext   int
	TileSize       int // side of a tile in pixels
	TileTokens     int // embeddings a tile
	TileMin        int // tiles of a grid, without the thumbnail
	TileMax        int
	Thumbnail      bool // a thumbnail is appended when the grid has more than one tile
	VitTokens      int  // tokens of a tile inside the ViT, class token included
	VitEmbd        int
	TileMean       [3]float32 // of pixels in 0..1, red green blue
	TileStd        [3]float32
	MaskImageSize  int // side of SAM 2's input
	MaskSize       int // side of the low-resolution logits
	MaskEmbd       int // channels of SAM 2's decoder, length of the projected [SEG]
	Masks          int // masks a decoder call predicts, the single-mask one included
	FeatureSize    int // side of the coarsest features
	MemoryEmbd     int // channels of a memory
	MaskMem        int // slices that SAM 2's memory holds, the current one included
	PromptedSlices int // slices of a volume that the language model sees and that get a prompt

	MaskImageMean, MaskImageStd [3]float32 // of SAM 2's pixels in 0..1, as stored; the caller rounds
}

// native makes the C structs of f and p. Their strings are pinned until the pinner lets go.
func (f Files) native(op string, pin *runtime.Pinner) (*cModelFiles, error) {
	c := &cModelFiles{}
	ubModelFilesInit(c)
	for _, part := range []struct {
		to         **byte
		name, path string
	}{{&c.language, "language", f.Language}, {&c.vision, "vision", f.Vision}, {&c.grounding, "grounding", f.Grounding}} {
		if part.path == "" {
			continue
		}
		s, err := pinned(op, part.name+" path", part.path, pin)
		if err != nil {
			return nil, err
		}
		*part.to = s
	}
	return c, nil
}

func (p Params) native(op string, pin *runtime.Pinner) (*cModelParams, error) {
	c := &cModelParams{}
	ubModelParamsInit(c)
	for _, field := range []struct {
		name  string
		value int
	}{{"threads", p.Threads}, {"context", p.Context}, {"tile batch", p.TileBatch}, {"mask batch", p.MaskBatch}} {
		if field.value < 0 || field.value > math.MaxInt32 {
			return nil, invalid(op, "%s is %d, want 0 to %d", field.name, field.value, math.MaxInt32)
		}
	}
	c.nThreads = int32(p.Threads)
	c.memoryLimit = p.MemoryLimit
	c.nCtx, c.tileBatch, c.maskBatch = uint32(p.Context), uint32(p.TileBatch), uint32(p.MaskBatch)
	if p.VocabOnly {
		c.vocabOnly = 1
	}
	for _, field := range []struct {
		name, value string
		to          **byte
	}{{"device", p.Device, &c.device}, {"KV cache", p.KVCache, &c.kvCache}} {
		if field.value == "" {
			continue
		}
		s, err := pinned(op, field.name, field.value, pin)
		if err != nil {
			return nil, err
		}
		*field.to = s
	}
	return c, nil
}

// pinned is s as a C string in pinned Go memory.
func pinned(op, what, s string, pin *runtime.Pinner) (*byte, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return nil, invalid(op, "the %s %q holds a NUL byte", what, s)
	}
	b := make([]byte, len(s)+1)
	copy(b, s)
	pin.Pin(&b[0])
	return &b[0], nil
}

// Check checks the files' structure, keys, tensor names, shapes, types and sizes without mapping them.
func Check(f Files) error {
	if err := load(); err != nil {
		return err
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	files, err := f.native("check", &pin)
	if err != nil {
		return err
	}
	var e cError
	if rc := ubModelCheck(files, &e); rc != ok {
		return e.err("check", rc)
	}
	return nil
}

// PlanMemory tells what Open would take. It allocates nothing of it, and succeeds also when the plan does not fit.
func PlanMemory(f Files, p Params) (Plan, error) {
	if err := load(); err != nil {
		return Plan{}, err
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	files, err := f.native("plan memory", &pin)
	if err != nil {
		return Plan{}, err
	}
	params, err := p.native("plan memory", &pin)
	if err != nil {
		return Plan{}, err
	}
	c := cMemoryPlan{size: uint32(unsafe.Sizeof(cMemoryPlan{}))}
	var e cError
	if rc := ubModelPlan(files, params, &c, &e); rc != ok {
		return Plan{}, e.err("plan memory", rc)
	}
	return c.Plan, nil
}

// A Model holds the weights of a model, on one device. It is safe for concurrent use.
type Model struct {
	lifetime
	info Info
}

// Open opens a model after Check and PlanMemory; it fails with NoMemory and the numbers when the plan does not fit.
func Open(ctx context.Context, f Files, p Params, c Call) (*Model, error) {
	if err := load(); err != nil {
		return nil, err
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	files, err := f.native("open", &pin)
	if err != nil {
		return nil, err
	}
	params, err := p.native("open", &pin)
	if err != nil {
		return nil, err
	}
	var h handle
	if err := do(ctx, "open", c, func(call *cCall, e *cError) int32 { return ubModelOpen(files, params, call, &h, e) }); err != nil {
		return nil, err
	}
	m := &Model{}
	start(m, &m.lifetime, "model", h, ubModelClose)
	if m.info, err = info(h); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func info(h handle) (Info, error) {
	c := cModelInfo{size: uint32(unsafe.Sizeof(cModelInfo{}))}
	var e cError
	if rc := ubModelGetInfo(h, &c, &e); rc != ok {
		return Info{}, e.err("open", rc)
	}
	return Info{
		Vocab: int(c.nVocab), Embd: int(c.nEmbd), Layers: int(c.nLayer), TrainContext: int(c.nCtxTrain),
		TileSize: int(c.tileSize), TileTokens: int(c.tileTokens), TileMin: int(c.tileMin), TileMax: int(c.tileMax),
		Thumbnail: c.tileThumbnail != 0, VitTokens: int(c.vitTokens), VitEmbd: int(c.vitEmbd),
		TileMean: c.tileMean, TileStd: c.tileStd,
		MaskImageSize: int(c.maskImageSize), MaskSize: int(c.maskSize), MaskEmbd: int(c.maskEmbd), Masks: int(c.nMasks),
		FeatureSize: int(c.featureSize), MemoryEmbd: int(c.memoryEmbd), MaskMem: int(c.nMaskmem),
		PromptedSlices: int(c.nPromptedSlices),

		MaskImageMean: c.maskImageMean, MaskImageStd: c.maskImageStd,
	}, nil
}

// Close frees the model once the calls in progress have ended and everything made from it is closed too. It returns nil, and
// is safe on nil and to repeat.
func (m *Model) Close() error {
	if m != nil {
		m.close()
	}
	return nil
}

// Info tells the model's sizes. It also does so after Close.
func (m *Model) Info() Info { return m.info }

// Metadata is a metadata value of the language file as text, for instance of "general.name", and whether there is one.
func (m *Model) Metadata(key string) (string, bool, error) {
	const op = "metadata"
	h, err := m.enter(op)
	if err != nil {
		return "", false, err
	}
	defer m.leave()
	var pin runtime.Pinner
	defer pin.Unpin()
	k, err := pinned(op, "key", key, &pin)
	if err != nil {
		return "", false, err
	}
	return filled(op, func(buffer *byte, capacity int32, n *int32, e *cError) int32 {
		return ubModelMetadata(h, k, buffer, capacity, n, e)
	})
}

// filled collects what a native call writes as text, and whether there is any: call fills a buffer and tells the length, -1 for none.
func filled(op string, call func(buffer *byte, capacity int32, n *int32, e *cError) int32) (string, bool, error) {
	for b := make([]byte, 256); ; {
		var n int32
		var e cError
		if rc := call(&b[0], int32(len(b)), &n, &e); rc != ok {
			return "", false, e.err(op, rc)
		}
		switch {
		case n < 0:
			return "", false, nil
		case int(n) < len(b):
			return string(b[:n]), true, nil
		}
		b = make([]byte, int(n)+1)
	}
}

// A TokenKind is a set of bits.
type TokenKind int32

const (
	TokenAdded   TokenKind = 1 << 0 // control or user-defined: text becomes it only when asked to
	TokenControl TokenKind = 1 << 1
)

// Tokenize turns text into ids. With special, added tokens in the text become their ids; without, only ordinary text is made
// of it. Nothing is normalised or added.
func (m *Model) Tokenize(text string, special bool) ([]int32, error) {
	const op = "tokenize"
	if len(text) > math.MaxInt32 {
		return nil, invalid(op, "got %d bytes, want at most %d", len(text), math.MaxInt32)
	}
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	b := append([]byte(text), 0)
	for ids := make([]int32, len(text)/3+16); ; {
		var n int32
		var e cError
		if rc := ubTokenize(h, &b[0], int32(len(text)), special, &ids[0], int32(len(ids)), &n, &e); rc != ok {
			return nil, e.err(op, rc)
		}
		if int(n) <= len(ids) {
			return ids[:n], nil
		}
		ids = make([]int32, n)
	}
}

// TokenBytes are the bytes of one token; of an added token, its text. They may be a part of a UTF-8 character.
func (m *Model) TokenBytes(id int32) ([]byte, error) {
	const op = "token bytes"
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	for b := make([]byte, 64); ; {
		var n int32
		var e cError
		if rc := ubTokenBytes(h, id, &b[0], int32(len(b)), &n, &e); rc != ok {
			return nil, e.err(op, rc)
		}
		if int(n) <= len(b) {
			return b[:n], nil
		}
		b = make([]byte, n)
	}
}

// TokenKind is the token's kind, or -1 when id is out of range or the model is closed.
func (m *Model) TokenKind(id int32) TokenKind {
	h, err := m.enter("token kind")
	if err != nil {
		return -1
	}
	defer m.leave()
	return TokenKind(ubTokenKind(h, id))
}

// EncodeTiles turns n tiles [n, 3, TileSize, TileSize] of normalised RGB into embeddings [n, TileTokens, Embd].
func (m *Model) EncodeTiles(ctx context.Context, tiles []float32, n int, c Call) ([]float32, error) {
	const op = "encode tiles"
	i := m.info
	if i.TileSize == 0 {
		return nil, invalid(op, "the model was opened without its vision file")
	}
	if n < 1 || n > math.MaxInt32 {
		return nil, invalid(op, "got %d tiles, want 1 or more", n)
	}
	if err := length(op, "tiles", len(tiles), n, 3, i.TileSize, i.TileSize); err != nil {
		return nil, err
	}
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	embeddings := make([]float32, n*i.TileTokens*i.Embd)
	err = do(ctx, op, c, func(call *cCall, e *cError) int32 {
		return ubVisionEncode(h, &tiles[0], int32(n), &embeddings[0], call, e)
	})
	if err != nil {
		return nil, err
	}
	return embeddings, nil
}

// length checks that an array has as many values as the axes say.
func length(op, what string, got int, axes ...int) error {
	// In floating point, as the product of huge axes would wrap around.
	want := 1.0
	for _, a := range axes {
		want *= float64(a)
	}
	if float64(got) != want {
		return invalid(op, "%s has %d values, want %d", what, got, axes)
	}
	return nil
}

// A Stage is a part of the model that Stats counts.
type Stage int

const (
	StageVision   Stage = 0 // items are tiles
	StagePrefill  Stage = 1 // items are positions
	StageDecode   Stage = 2 // items are tokens
	StageFeatures Stage = 3 // items are images
	StageMasks    Stage = 4 // items are masks
	StageMemory   Stage = 5 // items are slices

	stages = 6
)

func (s Stage) String() string {
	if s < 0 || s >= stages {
		return "unknown"
	}
	return [stages]string{"vision", "prefill", "decode", "features", "masks", "memory"}[s]
}

// StageStats are totals since the model was opened.
type StageStats struct {
	Calls uint64
	Items uint64
	Time  time.Duration // inside the stage, without waiting for it
	FLOP  uint64        // of matrix products and attention, two a multiply-add
}

// Stats returns the totals of every stage, indexed by Stage.
func (m *Model) Stats() ([]StageStats, error) {
	const op = "stats"
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	var c [stages]cStageStats
	var e cError
	if rc := ubModelStats(h, &c[0], &e); rc != ok {
		return nil, e.err(op, rc)
	}
	s := make([]StageStats, stages)
	for i, c := range c {
		s[i] = StageStats{Calls: c.calls, Items: c.items, Time: time.Duration(c.nanoseconds), FLOP: c.flop}
	}
	return s, nil
}

// Operations counts how often a device computed an operation of ggml for a stage.
type Operations struct {
	Stage     string // as Stage.String
	Operation string // for instance "MUL_MAT"
	Device    string // a name listed by Devices
	Count     uint64
}

// Operations tells where all operations since the model was opened were computed, sorted by stage, operation and device.
func (m *Model) Operations() ([]Operations, error) {
	const op = "operations"
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	lines, _, err := filled(op, func(buffer *byte, capacity int32, n *int32, e *cError) int32 {
		return ubModelOperations(h, buffer, capacity, n, e)
	})
	if err != nil {
		return nil, err
	}
	var all []Operations
	for line := range strings.Lines(lines) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		o := Operations{Stage: f[0], Operation: f[1], Device: f[2]}
		if o.Count, err = strconv.ParseUint(f[3], 10, 64); err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// PeakRate runs n x n x n products with weights of a type on the model's device for about d, and returns the best rate in FLOP
// per second.
func (m *Model) PeakRate(typ string, n int, d time.Duration) (float64, error) {
	const op = "peak rate"
	if n < 1 || n > math.MaxInt32 {
		return 0, invalid(op, "size is %d, want 1 or more", n)
	}
	h, err := m.enter(op)
	if err != nil {
		return 0, err
	}
	defer m.leave()
	var pin runtime.Pinner
	defer pin.Unpin()
	t, err := pinned(op, "type", typ, &pin)
	if err != nil {
		return 0, err
	}
	var rate float64
	var e cError
	if rc := ubPeakRate(h, t, int32(n), float32(d.Seconds()), &rate, &e); rc != ok {
		return 0, e.err(op, rc)
	}
	return rate, nil
}
