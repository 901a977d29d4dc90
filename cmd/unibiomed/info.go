package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
	"github.com/unibiomed/go-unibiomed/unibiomed/study"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
)

type infoCmd struct {
	modelFlags
	studyFlags
	JSON bool   `help:"Print it as JSON."`
	Out  string `short:"o" placeholder:"DIR" help:"Folder for NAME.sheet.png: a study's pictures as the model would see them."`
	Path string `arg:"" optional:"" name:"PATH" help:"A model folder, a checkpoint folder, an image, or a DICOM folder. Default: the model that --model names."`
}

func (infoCmd) Help() string {
	return `Examples:
  unibiomed info unibiomed-1b-q8_0
  unibiomed info UniBiomed/          (a Hugging Face checkpoint folder)
  unibiomed info ct.png --json
  unibiomed info CT/ --out sheets     (a DICOM folder; also NIfTI, NRRD, MetaImage)`
}

func (c *infoCmd) Run(ctx context.Context, s *streams) error {
	if err := c.validate(); err != nil {
		return err
	}
	path := c.Path
	if path == "" {
		dir, err := c.dir()
		if err != nil {
			return err
		}
		path = dir
	}
	at, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !at.IsDir() {
		if format, err := study.Format(path); err != nil {
			return err
		} else if format != "" {
			return c.study(ctx, s, path)
		}
		return c.image(ctx, s, path)
	}
	if _, err := os.Stat(filepath.Join(path, checkpoint.ManifestFile)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
			return c.checkpoint(s, path)
		}
		if found, _, err := studiesIn(path); err == nil && slices.ContainsFunc(found, func(in input) bool { return in.path == path }) {
			return c.study(ctx, s, path)
		}
	}
	return c.model(ctx, s, path)
}

// -------------------------------------------------------------------------------------------------------------- model

type modelDocument struct {
	Schema string               `json:"schema"`
	Kind   string               `json:"kind"`
	Folder string               `json:"folder"`
	Model  *checkpoint.Manifest `json:"model"`
	Sizes  *sizesDocument       `json:"sizes,omitempty"`
	Plan   *planDocument        `json:"memory_plan,omitempty"`
}

// sizesDocument are the sizes that the files give.
type sizesDocument struct {
	Vocabulary     int  `json:"vocabulary"`
	HiddenSize     int  `json:"hidden_size"`
	Layers         int  `json:"layers"`
	TrainContext   int  `json:"context_trained"`
	TileSize       int  `json:"tile_size"`
	TileTokens     int  `json:"tile_tokens"`
	TileMin        int  `json:"tiles_min"`
	TileMax        int  `json:"tiles_max"`
	Thumbnail      bool `json:"thumbnail"`
	VisionWidth    int  `json:"vision_hidden_size"`
	MaskImageSize  int  `json:"mask_image_size"`
	MaskSize       int  `json:"mask_size"`
	MaskWidth      int  `json:"mask_hidden_size"`
	PromptedSlices int  `json:"prompted_slices"`
	MemorySlices   int  `json:"memory_slices"`
}

func (c *infoCmd) model(ctx context.Context, s *streams, dir string) error {
	m, err := checkpoint.ReadModel(dir)
	if err != nil {
		return err
	}
	files := unibiomed.ModelFiles(dir)
	if err := bindings.Check(files); err != nil {
		return err
	}
	plan, err := unibiomed.PlanMemory(dir, c.options())
	if err != nil {
		return err
	}
	doc := modelDocument{Schema: "unibiomed.info/1", Kind: "model", Folder: dir, Model: &m, Plan: newPlanDocument(plan)}
	p, err := unibiomed.Open(ctx, dir, c.options())
	switch {
	case err == nil:
		i := p.Info()
		p.Close()
		doc.Sizes = &sizesDocument{
			Vocabulary: i.Vocab, HiddenSize: i.Embd, Layers: i.Layers, TrainContext: i.TrainContext,
			TileSize: i.TileSize, TileTokens: i.TileTokens, TileMin: i.TileMin, TileMax: i.TileMax, Thumbnail: i.Thumbnail, VisionWidth: i.VitEmbd,
			MaskImageSize: i.MaskImageSize, MaskSize: i.MaskSize, MaskWidth: i.MaskEmbd, PromptedSlices: i.PromptedSlices, MemorySlices: i.MaskMem,
		}
	case !errors.Is(err, bindings.NoMemory): // what does not fit is described without its sizes
		return err
	}
	if c.JSON {
		return encodeJSON(s.out, doc, true)
	}

	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "name\t%s\n", m.Name)
	if m.Description != "" {
		fmt.Fprintf(t, "description\t%s\n", m.Description)
	}
	fmt.Fprintf(t, "licence\t%s\nintended use\t%s\nsource\t%s, sha256 %s\n", m.Licence, m.IntendedUse, m.Source.Name, m.Source.SHA256)
	for _, part := range checkpoint.Parts() {
		fmt.Fprintf(t, "%s\t%s, %s\n", part.File(), m.Quantization[string(part)], bytesText(uint64(m.Files[part.File()].Size)))
	}
	if z := doc.Sizes; z != nil {
		fmt.Fprintf(t, "language model\t%d layers of %d, %d tokens, context of %d\n", z.Layers, z.HiddenSize, z.Vocabulary, z.TrainContext)
		thumbnail := ""
		if z.Thumbnail {
			thumbnail = " and a thumbnail"
		}
		fmt.Fprintf(t, "vision tower\t%d to %d tiles of %d pixels%s, %d embeddings a tile\n", z.TileMin, z.TileMax, z.TileSize, thumbnail, z.TileTokens)
		fmt.Fprintf(t, "SAM 2\timage of %d pixels, masks of %d; volumes: %d slices prompted, %d remembered\n", z.MaskImageSize, z.MaskSize, z.PromptedSlices, z.MemorySlices)
	}
	fmt.Fprintf(t, "tokens\t[SEG] %d, <IMG_CONTEXT> %d, end %d; template %s\n", m.Tokens.Seg, m.Tokens.ImgContext, m.Tokens.EOS, m.Template)
	fmt.Fprintln(t)
	doc.Plan.print(t)
	fmt.Fprintf(t, "\n%s\n", unibiomed.Notice)
	return t.Flush()
}

// --------------------------------------------------------------------------------------------------------- checkpoint

type checkpointPart struct {
	Part     string           `json:"part"`
	Tensors  int              `json:"tensors"`
	Elements int64            `json:"elements"`
	Bytes    int64            `json:"bytes"`
	Types    map[string]int64 `json:"types"` // elements of each
}

// checkpointPrefixes tells the parts of the published layout apart, in the order of docs/model-folder.md.
var checkpointPrefixes = []struct{ part, prefix string }{
	{"language", "language_model."}, {"vision", "vision_model."}, {"vision", "mlp1."},
	{"grounding", "grounding_encoder."}, {"grounding", "text_hidden_fcs."},
}

func (c *infoCmd) checkpoint(s *streams, dir string) error {
	tensors, err := safetensors.OpenFolder(dir)
	if err != nil {
		return err
	}
	defer tensors.Close()
	parts := map[string]*checkpointPart{}
	for _, file := range tensors.Files {
		for _, t := range file.Tensors {
			name := "other"
			for _, p := range checkpointPrefixes {
				if strings.HasPrefix(t.Name, p.prefix) {
					name = p.part
					break
				}
			}
			p := parts[name]
			if p == nil {
				p = &checkpointPart{Part: name, Types: map[string]int64{}}
				parts[name] = p
			}
			p.Tensors++
			p.Elements += t.Elements()
			p.Bytes += t.Bytes
			p.Types[string(t.DType)] += t.Elements()
		}
	}
	doc := struct {
		Schema string            `json:"schema"`
		Kind   string            `json:"kind"`
		Folder string            `json:"folder"`
		Files  int               `json:"files"`
		Parts  []*checkpointPart `json:"parts"`
	}{"unibiomed.info/1", "checkpoint", dir, len(tensors.Files), []*checkpointPart{}}
	for _, name := range []string{"language", "vision", "grounding", "other"} {
		if p := parts[name]; p != nil {
			doc.Parts = append(doc.Parts, p)
		}
	}
	if c.JSON {
		return encodeJSON(s.out, doc, true)
	}
	fmt.Fprintf(s.out, "%s: a checkpoint in %d safetensors files; convert makes a model folder of it\n", dir, doc.Files)
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, p := range doc.Parts {
		fmt.Fprintf(t, "  %s\t%d tensors\t%.1f M elements\t%s\t%s\n", p.Part, p.Tensors, float64(p.Elements)/1e6, bytesText(uint64(p.Bytes)),
			strings.Join(slices.Sorted(maps.Keys(p.Types)), " "))
	}
	return t.Flush()
}

// -------------------------------------------------------------------------------------------------------------- image

func (c *infoCmd) image(ctx context.Context, s *streams, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	config, err := imaging.DecodeConfig(f, imaging.Options{Name: path, Page: c.Frame})
	if err != nil {
		return err
	}
	doc := struct {
		Schema string `json:"schema"`
		Kind   string `json:"kind"`
		File   string `json:"file"`
		Format string `json:"format"`
		Mode   string `json:"mode"`
		Width  int    `json:"width"`
		Height int    `json:"height"`
		Pages  int    `json:"pages"`
		Tiles  int    `json:"tiles,omitempty"` // of the model, when one is at hand
		Model  string `json:"model,omitempty"`
	}{Schema: "unibiomed.info/1", Kind: "image", File: path, Format: config.Format, Mode: config.Mode, Width: config.Width, Height: config.Height, Pages: config.Pages}
	if dir, err := c.dir(); err == nil {
		p, err := unibiomed.Open(ctx, dir, c.options())
		if err != nil {
			return err
		}
		i := p.Info()
		p.Close()
		doc.Tiles = tiles.Choose(config.Width, config.Height, i.TileSize, i.TileMin, i.TileMax).Count(i.Thumbnail)
		doc.Model = dir
	} else if c.Model != "" {
		return err
	}
	if c.JSON {
		return encodeJSON(s.out, doc, true)
	}
	tilesText := ""
	if doc.Tiles > 0 {
		tilesText = fmt.Sprintf(", %d tiles for %s", doc.Tiles, doc.Model)
	}
	if config.Pages > 1 {
		tilesText = fmt.Sprintf(", page %d of 0 to %d (--frame)", c.Frame, config.Pages-1) + tilesText
	}
	_, err = fmt.Fprintf(s.out, "%s: %s, %d x %d, %s%s\n", path, config.Format, config.Width, config.Height, cmp.Or(config.Mode, "unknown mode"), tilesText)
	return err
}
