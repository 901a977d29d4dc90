package unibiomed

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// VolumeSchema names the format of a VolumeResult in JSON.
const VolumeSchema = "unibiomed.volume/1"

// VolumeOptions say how a volume is segmented. The zero value is ready to use.
type VolumeOptions struct {
	ViewOptions // Phrases are set from the targets

	// Every n-th picture is segmented, from the middle of the first n on; the voxels of the others stay outside every mask. It
	// defaults to 1.
	Every int
	// BodyOnly leaves out pictures that show no body: of CT less than 2 % above -500 HU, else less than 2 % above a
	// tenth of the usual brightness.
	BodyOnly bool
	// MaxNewTokens bounds each answer. It defaults to DefaultMaxNewTokens.
	MaxNewTokens int

	// Track finds a target in a few pictures by its phrase and follows it through the others, in both directions, by SAM 2's
	// memory. Without it, the default and the way the model was trained, every picture is asked about on its own.
	Track bool
	// Prompted are the pictures that Track asks about, at most Info.PromptedSlices. It defaults to the first ones.
	Prompted []int

	// LargestComponent keeps the largest connected part of each mask (26 neighbours).
	LargestComponent bool
	// FillHoles fills what a mask encloses (6 neighbours).
	FillHoles bool

	// Journal is the path of a file that keeps the pictures that are done, so that the same call goes on after a kill. With Track
	// a direction that was not finished starts again at the prompted pictures, as the memory is not kept. The file stays
	// when the call ends, whatever the outcome: remove it once the result is safe. "" keeps none.
	Journal string
	// File names the volume in the result.
	File string
	// Progress, when set, hears after each picture how many of all are done; the first call tells what a journal held.
	Progress func(done, all int)
}

// A VolumeResult is the document of one volume.
type VolumeResult struct {
	Schema  string          `json:"schema"`
	Model   ModelRef        `json:"model"`
	Volume  VolumeRef       `json:"volume"`
	Targets []VolumeFinding `json:"targets"`
	Files   []string        `json:"files,omitempty"` // of all targets together, relative to the output folder
	Timings Timings         `json:"timings_ms"`      // of this call: what a journal held cost nothing
	Notice  string          `json:"notice"`

	// Viewer shows the pictures again, for overlays.
	Viewer *Viewer `json:"-"`
	// Pictures are the numbers of those that were segmented, ascending.
	Pictures []int `json:"-"`
}

// A VolumeRef says what was read and how the model saw it.
type VolumeRef struct {
	File      string        `json:"file,omitempty"`
	Modality  string        `json:"modality,omitempty"`
	Size      [3]int        `json:"size"`       // columns, rows, slices as stored
	SpacingMM [3]float64    `json:"spacing_mm"` // of the same
	AffineLPS volume.Affine `json:"affine_lps"` // (column, row, slice) to mm to the left, posterior and superior
	Placed    bool          `json:"placed"`     // false: only the spacing means anything
	Plane     string        `json:"plane"`      // of the pictures
	Pictures  int           `json:"pictures"`   // that the plane has
	Width     int           `json:"width"`      // of a picture
	Height    int           `json:"height"`
	Window    string        `json:"window"`
	Square    bool          `json:"square"`   // padded to squares for the model
	Mode      string        `json:"mode"`     // slices or track
	Prompted  []int         `json:"prompted"` // pictures that were prompted, of mode track
	Every     int           `json:"every"`
	Segmented int           `json:"segmented"` // pictures that were
	Steps     []string      `json:"steps"`     // done to the masks afterwards: largest component, fill holes
	Warnings  []string      `json:"warnings"`
	// Identifiers of patient and study; only where a caller put them.
	Identifiers map[string]string `json:"identifiers,omitempty"`
}

// A VolumeFinding is a target in a volume.
type VolumeFinding struct {
	Phrase string `json:"phrase"`
	Prompt string `json:"prompt"`
	Status Status `json:"status"`
	Voxels int    `json:"voxels"`
	// VolumeML is that of the voxels of the mask; nil where the size of a voxel is unknown.
	VolumeML *float64 `json:"volume_ml,omitempty"`
	// EstimatedML counts pictures that were left out by Every as their neighbours; nil if none were.
	EstimatedML *float64      `json:"estimated_ml,omitempty"`
	Bounds      *[2][3]int    `json:"bounds,omitempty"` // smallest and largest column, row and slice inside
	Slices      []VolumeSlice `json:"slices"`           // ascending, one a picture that was segmented
	Files       []string      `json:"files,omitempty"`
	Label       volume.Label  `json:"-"` // with the mask, on the grid of the volume
}

// A VolumeSlice is a target in one picture.
type VolumeSlice struct {
	Slice        int      `json:"slice"` // number of the picture in its plane
	Tracked      bool     `json:"tracked,omitempty"`
	Answer       string   `json:"answer,omitempty"`
	PredictedIoU float32  `json:"predicted_iou"`
	ObjectScore  float32  `json:"object_score"`
	Selected     int32    `json:"selected"`
	AreaPx       int      `json:"area_px"`            // of the mask as it is in the end
	AreaMM2      *float64 `json:"area_mm2,omitempty"` // nil where the size of a pixel is unknown
}

// SegmentVolume draws one mask for each target phrase through a volume. Pictures pass one after another, so beyond the
// volume it holds one bit a voxel and target; the image features of a picture are computed once for all targets.
// Canceling ctx stops within one block of a stage. Other calls get their turn between the pictures.
// Errors: those of Segment, of package volume, JournalError.
func (p *Pipeline) SegmentVolume(ctx context.Context, v *volume.Volume, targets []string, o VolumeOptions) (*VolumeResult, error) {
	if len(targets) == 0 {
		return nil, &InputError{"target", "is missing"}
	}
	for i, t := range targets {
		if strings.TrimSpace(t) == "" {
			return nil, &InputError{fmt.Sprintf("target %d", i), "is empty"}
		}
	}
	if o.Every < 0 {
		return nil, &InputError{"every", fmt.Sprintf("is %d, want at least 1", o.Every)}
	}
	o.Every = max(o.Every, 1)
	if len(o.Prompted) > 0 && !o.Track {
		return nil, &InputError{"prompted", "is given without track"}
	}
	o.Phrases = targets
	viewer, err := NewViewer(v, o.ViewOptions)
	if err != nil {
		return nil, err
	}
	r := &volumeRun{Pipeline: p, options: o, viewer: viewer, targets: targets, timings: Timings{}, done: map[int]string{}}
	if err := r.choose(); err != nil {
		return nil, err
	}
	for i := range targets {
		r.masks = append(r.masks, volume.NewMask(v.Dims))
		r.slices = append(r.slices, make([]VolumeSlice, len(r.picks)))
		for k, n := range r.picks {
			r.slices[i][k].Slice = n
		}
	}
	if o.Journal != "" {
		if r.journal, err = openJournal(o.Journal, r.key(), r.restore); err != nil {
			return nil, err
		}
		defer r.journal.close()
	}
	r.progress()
	if o.Track {
		err = r.track(ctx)
	} else {
		err = r.sliceWise(ctx)
	}
	if err != nil {
		return nil, err
	}
	return r.result()
}

// volumeRun is one volume at work.
type volumeRun struct {
	*Pipeline
	options  VolumeOptions
	viewer   *Viewer
	targets  []string
	picks    []int // pictures to segment, ascending
	prompted []int // of those, the ones that are prompted in mode track
	masks    []*volume.Mask
	slices   [][]VolumeSlice // of each target, of each pick
	timings  Timings

	journal *journal
	done    map[int]string // picture number to the sum of the picture, of those that are done
}

// choose fills picks and prompted.
func (r *volumeRun) choose() error {
	o, all := r.options, r.viewer.Pictures()
	for n := min((o.Every-1)/2, (all-1)/2); n < all; n += o.Every {
		r.picks = append(r.picks, n)
	}
	if o.BodyOnly {
		has, err := r.viewer.body(r.picks)
		if err != nil {
			return err
		}
		var kept []int
		for i, n := range r.picks {
			if has[i] {
				kept = append(kept, n)
			}
		}
		r.picks = kept
	}
	if !o.Track {
		return nil
	}
	if len(o.Prompted) > r.info.PromptedSlices {
		return &InputError{"prompted", fmt.Sprintf("has %d slices, the model takes at most %d", len(o.Prompted), r.info.PromptedSlices)}
	}
	for _, n := range o.Prompted {
		if n < 0 || n >= all {
			return &InputError{"prompted", fmt.Sprintf("has slice %d, the %s plane has 0 to %d", n, r.viewer.View.Plane, all-1)}
		}
	}
	r.picks = append(r.picks, o.Prompted...)
	slices.Sort(r.picks)
	r.picks = slices.Compact(r.picks)
	r.prompted = slices.Clone(o.Prompted)
	if len(r.prompted) == 0 {
		r.prompted = slices.Clone(r.picks[:min(len(r.picks), r.info.PromptedSlices)])
	}
	slices.Sort(r.prompted)
	r.prompted = slices.Compact(r.prompted)
	return nil
}

// key is all that must be the same for a journal to be continued; the pictures themselves are compared as they come.
func (r *volumeRun) key() any {
	v := r.viewer
	return struct {
		Model           ModelRef
		Size            [3]int
		Affine          volume.Affine
		Plane, Window   string
		Square, Track   bool
		Picks, Prompted []int
		Targets         []string
		MaxNewTokens    int
	}{r.modelRef(), v.View.Volume.Dims, v.View.Volume.Affine, v.View.Plane.String(), v.Window.String(), v.Padding != nil,
		r.options.Track, r.picks, r.prompted, r.targets, r.options.MaxNewTokens}
}

func (p *Pipeline) modelRef() ModelRef {
	return ModelRef{Name: p.manifest.Name, SHA256: p.manifest.Source.SHA256, Quantization: p.manifest.Quantization}
}

// restore takes a slice from a journal. A later record of a slice replaces an earlier one.
func (r *volumeRun) restore(s journalSlice) error {
	k, ok := slices.BinarySearch(r.picks, s.Slice)
	if !ok || len(s.Targets) != len(r.targets) {
		return fmt.Errorf("is not one of this run, or has %d targets instead of %d", len(s.Targets), len(r.targets))
	}
	view := r.viewer.View
	for i, t := range s.Targets {
		if t.RLE.Width != view.Columns || t.RLE.Height != view.Rows || t.Slice != s.Slice {
			return fmt.Errorf("has a mask of %d x %d, want %d x %d", t.RLE.Width, t.RLE.Height, view.Columns, view.Rows)
		}
		m, err := t.RLE.Mask(0)
		if err != nil {
			return err
		}
		if err := view.PutMask(r.masks[i], s.Slice, m.Pix); err != nil {
			return err
		}
		r.slices[i][k] = t.VolumeSlice
	}
	r.done[s.Slice] = s.Picture
	return nil
}

// known reports whether picture n was done before, and fails if it was another picture then.
func (r *volumeRun) known(n int, img *imaging.RGB) (bool, error) {
	sum, ok := r.done[n]
	if ok && sum != pictureSum(img) {
		return false, &JournalError{r.options.Journal, fmt.Sprintf("slice %d: is of another picture: remove the file to start anew", n)}
	}
	return ok, nil
}

// keep puts the masks of picture n in their place and writes the journal. Bits, in the grid of img, are nil for an empty mask.
func (r *volumeRun) keep(n int, img *imaging.RGB, found []VolumeSlice, bits []*imaging.Mask) error {
	k, _ := slices.BinarySearch(r.picks, n)
	view := r.viewer.View
	record := journalSlice{Slice: n}
	for i, s := range found {
		m := imaging.NewMask(view.Columns, view.Rows)
		if bits[i] != nil {
			m = r.viewer.Crop(bits[i])
		}
		if err := view.PutMask(r.masks[i], n, m.Pix); err != nil {
			return err
		}
		s.Slice, s.AreaPx = n, m.Area()
		r.slices[i][k] = s
		if r.journal != nil {
			record.Targets = append(record.Targets, journalTarget{s, rle.Encode(m)})
		}
	}
	r.done[n] = ""
	if r.journal != nil {
		record.Picture = pictureSum(img)
		r.done[n] = record.Picture
		if err := r.journal.write(record); err != nil {
			return err
		}
	}
	r.progress()
	return nil
}

func (r *volumeRun) progress() {
	if r.options.Progress != nil {
		r.options.Progress(len(r.done), len(r.picks))
	}
}

func (r *volumeRun) sliceWise(ctx context.Context) error {
	for _, n := range r.picks {
		if err := r.slice(ctx, n); err != nil {
			return fmt.Errorf("slice %d: %w", n, err)
		}
	}
	return nil
}

// slice asks about picture n, for each target. Picture and prefix are computed for the first one.
func (r *volumeRun) slice(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	img, err := r.viewer.Picture(n)
	if err != nil {
		return err
	}
	if known, err := r.known(n, img); known || err != nil {
		return err
	}
	found, bits, err := r.ask(ctx, img)
	if err != nil {
		return err
	}
	return r.keep(n, img, found, bits)
}

// ask returns what the model finds of each target in a picture.
func (r *volumeRun) ask(ctx context.Context, img *imaging.RGB) ([]VolumeSlice, []*imaging.Mask, error) {
	defer r.forget(ctx, img, picture)
	found, bits := make([]VolumeSlice, len(r.targets)), make([]*imaging.Mask, len(r.targets))
	for i, target := range r.targets {
		turn, err := r.turn(ctx, "segment", Request{
			Input: Input{Image: img}, Prompt: prompt.Segment(target), Target: target, MaxNewTokens: r.options.MaxNewTokens,
		})
		if err != nil {
			return nil, nil, err
		}
		r.addTimings(turn.Timings)
		found[i].Answer = turn.Answer
		for _, f := range turn.Findings {
			bits[i] = found[i].add(bits[i], f.Bits, f.PredictedIoU, f.ObjectScore, f.Selected)
		}
	}
	return found, bits, nil
}

// add joins one more mask of the same target. The scores are those of the largest.
func (s *VolumeSlice) add(have, more *imaging.Mask, iou, object float32, selected int32) *imaging.Mask {
	if area := more.Area(); have == nil || area > s.AreaPx {
		s.AreaPx, s.PredictedIoU, s.ObjectScore, s.Selected = area, iou, object, selected
	}
	if have == nil {
		return more
	}
	for i, v := range more.Pix {
		have.Pix[i] |= v
	}
	return have
}

func (r *volumeRun) addTimings(t Timings) {
	for stage, ms := range t {
		r.timings[stage] += ms
	}
}

// forget drops what the cache keeps of a picture: the pictures of a volume are many, and none comes back.
func (p *Pipeline) forget(ctx context.Context, img *imaging.RGB, how route) {
	release, err := p.acquire(context.WithoutCancel(ctx))
	if err != nil {
		return // closed: nothing is kept
	}
	defer release()
	if e, ok := p.images.byKey[keyOf(img, how)]; ok {
		p.images.drop(e)
	}
}

// result measures the masks.
func (r *volumeRun) result() (*VolumeResult, error) {
	o, view := r.options, r.viewer.View
	v := view.Volume
	res := &VolumeResult{
		Schema: VolumeSchema, Model: r.modelRef(), Targets: []VolumeFinding{}, Timings: r.timings, Notice: Notice,
		Viewer: r.viewer, Pictures: r.picks,
		Volume: VolumeRef{
			File: o.File, Modality: r.viewer.Modality, Size: v.Dims, SpacingMM: v.Affine.Spacing(), AffineLPS: v.Affine, Placed: v.Placed,
			Plane: view.Plane.String(), Pictures: view.Slices, Width: view.Columns, Height: view.Rows,
			Window: r.viewer.Window.String(), Square: o.Square, Mode: "slices", Prompted: []int{}, Every: o.Every, Segmented: len(r.picks),
			Steps: []string{}, Warnings: []string{},
		},
	}
	if o.Track {
		res.Volume.Mode, res.Volume.Prompted = "track", append(res.Volume.Prompted, r.prompted...)
	}
	for _, w := range v.Warnings {
		res.Volume.Warnings = append(res.Volume.Warnings, w.Error())
	}
	if o.LargestComponent {
		res.Volume.Steps = append(res.Volume.Steps, "largest component")
	}
	if o.FillHoles {
		res.Volume.Steps = append(res.Volume.Steps, "fill holes")
	}
	voxel, measurable := voxelML(v)
	pixel, pixelKnown := r.viewer.PixelArea()
	pixels := make([]uint8, view.Columns*view.Rows)
	for i, m := range r.masks {
		if o.LargestComponent {
			m.LargestComponent()
		}
		if o.FillHoles {
			m.FillHoles(false)
		}
		f := VolumeFinding{
			Phrase: strings.TrimSuffix(strings.TrimSpace(r.targets[i]), "."), Prompt: prompt.Segment(r.targets[i]),
			Voxels: m.Count(), Slices: r.slices[i], Label: volume.Label{Mask: m},
		}
		f.Label.Name = f.Phrase
		f.Status = status(f.Voxels)
		if lo, hi, ok := m.Bounds(); ok {
			f.Bounds = &[2][3]int{lo, hi}
		}
		if measurable {
			ml := voxel * float64(f.Voxels)
			f.VolumeML = &ml
		}
		for k := range f.Slices {
			s := &f.Slices[k]
			if err := view.MaskSlice(m, s.Slice, pixels); err != nil {
				return nil, err
			}
			s.AreaPx = 0
			for _, x := range pixels {
				s.AreaPx += int(x)
			}
			if pixelKnown {
				area := float64(s.AreaPx) * pixel
				s.AreaMM2 = &area
			}
		}
		if measurable && o.Every > 1 {
			estimate := voxel * r.interpolated(f.Slices)
			f.EstimatedML = &estimate
		}
		res.Targets = append(res.Targets, f)
	}
	return res, nil
}

// interpolated returns the pixels of all pictures, as far as those that were segmented tell: each n-th stands for those around
// it, and the last one for what is left.
func (r *volumeRun) interpolated(found []VolumeSlice) float64 {
	every, all := r.options.Every, r.viewer.Pictures()
	cells := max(1, (all+every/2)/every)
	area, seen := make([]float64, cells), make([]float64, cells)
	for _, s := range found {
		c := min(s.Slice/every, cells-1)
		area[c] += float64(s.AreaPx)
		seen[c]++
	}
	sum := 0.0
	for c := range cells {
		end := (c + 1) * every
		if c == cells-1 {
			end = all
		}
		if seen[c] > 0 {
			sum += area[c] / seen[c] * float64(end-c*every)
		}
	}
	return sum
}

// voxelML returns the volume of a voxel. It is not known of a single picture without a place, nor of pictures that have a machine but
// no place: frames of a cine lie in time, not in space.
func voxelML(v *volume.Volume) (float64, bool) {
	ml := v.VoxelML()
	return ml, ml > 0 && !math.IsInf(ml, 0) && (v.Placed || v.Modality == "" && v.Dims[2] > 1)
}
