package evaluation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"github.com/unibiomed/go-unibiomed/unibiomed/study"
	vol "github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// VolumesSchema names the format of a VolumeSummary in JSON.
const VolumesSchema = "unibiomed.evaluation.volumes/1"

// A VolumeSample is a volume with its true masks.
type VolumeSample struct {
	ID      string // path of the image below the folder, with slashes and without its ending
	Image   string
	Targets []VolumeTarget
}

// A VolumeTarget is what one file of truth says about a phrase.
type VolumeTarget struct {
	Phrase string
	File   string
	Value  int // of the voxels in a label map that are inside; 0: all above 0 are
}

// endings of volumes that have masks beside them.
var volumeEndings = []string{".nii.gz", ".nii", ".nrrd", ".mha"}

func cutEnding(path string) (string, bool) {
	for _, end := range volumeEndings {
		if base, ok := strings.CutSuffix(path, end); ok {
			return base, true
		}
	}
	return path, false
}

// OpenVolumes finds the volumes below dir that have their truth beside them: IMAGE__TARGET.mask.nii.gz, a mask a target, or
// IMAGE__labels.nii.gz, a label map, with IMAGE__labels.json, which names its values: {"1": "spleen"}. Other endings are .nii, .nrrd
// and .mha. Underscores in names count as spaces; template makes phrases of them, {target} standing for the name. Voxels are not
// read. Errors: DatasetError, and those of the file system.
func OpenVolumes(dir, template string) ([]VolumeSample, error) {
	template = cmp.Or(template, "{target}")
	phrase := func(name string) string {
		return strings.ReplaceAll(template, "{target}", strings.ReplaceAll(name, "_", " "))
	}
	images, truth := map[string]string{}, map[string][]VolumeTarget{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		base, ok := cutEnding(path)
		if err != nil || e.IsDir() || !ok {
			return err
		}
		image, name, marked := strings.Cut(filepath.Base(base), maskMark)
		image = filepath.Join(filepath.Dir(base), image)
		if target, ok := strings.CutSuffix(name, ".mask"); marked && ok {
			truth[image] = append(truth[image], VolumeTarget{Phrase: phrase(target), File: path})
		} else if marked && name == "labels" {
			targets, err := labelTargets(base+".json", path)
			if err != nil {
				return err
			}
			for _, t := range targets {
				t.Phrase = phrase(t.Phrase)
				truth[image] = append(truth[image], t)
			}
		} else if !marked {
			images[base] = path
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []VolumeSample
	for _, image := range slices.Sorted(maps.Keys(truth)) {
		path, ok := images[image]
		if !ok {
			return nil, &DatasetError{File: truth[image][0].File, Msg: "no volume " + filepath.Base(image) + " (" + strings.Join(volumeEndings, " ") + ") beside it"}
		}
		id, err := filepath.Rel(dir, image)
		if err != nil {
			return nil, err
		}
		out = append(out, VolumeSample{ID: filepath.ToSlash(id), Image: path, Targets: truth[image]})
	}
	if len(out) == 0 {
		return nil, &DatasetError{File: dir, Msg: "no volume with IMAGE__TARGET.mask.nii.gz, or IMAGE__labels.nii.gz and .json, beside it"}
	}
	return out, nil
}

// labelTargets reads the names of a label map's values, in their order.
func labelTargets(list, file string) ([]VolumeTarget, error) {
	data, err := readLimited(list)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	if err := json.Unmarshal(data, &names); err != nil {
		return nil, &DatasetError{File: list, Msg: err.Error()}
	}
	var out []VolumeTarget
	for value, name := range names {
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || strings.TrimSpace(name) == "" {
			return nil, &DatasetError{list, strconv.Quote(value), fmt.Sprintf("is named %q: want a number above 0 and a name", name)}
		}
		out = append(out, VolumeTarget{Phrase: name, File: file, Value: n})
	}
	slices.SortFunc(out, func(a, b VolumeTarget) int { return cmp.Compare(a.Value, b.Value) })
	return out, nil
}

// A VolumeRun asks a model about volumes and scores its masks.
type VolumeRun struct {
	Samples []VolumeSample
	// Options are those of each call; Journal and File are set by the run.
	Options  unibiomed.VolumeOptions
	Modality string // of files that do not say theirs
	// Tolerance of the strict NSD in mm. It defaults to 2.
	Tolerance float64
	// Dir keeps NAME.journal of each volume, so that the same run goes on after a kill; "" keeps none. The caller removes them once
	// the summary is safe: Journals names them.
	Dir string
	// Started hears each volume before it is read, Failed those that can't be scored; they stop nothing else.
	Started func(i, n int, s VolumeSample)
	Failed  func(s VolumeSample, err error)
}

// A VolumeScore is one target of one volume. Scores that have no value are nil.
type VolumeScore struct {
	ID     string   `json:"id"`
	Phrase string   `json:"phrase"`
	Voxels Pixels   `json:"voxels"`
	Dice   float64  `json:"dice"`    // strict, on the volume's grid; two empty masks have 1
	HD95   *float64 `json:"hd95_mm"` // between surfaces; nil where one mask is empty
	NSD    float64  `json:"nsd"`     // within the tolerance

	OfficialDice float64  `json:"official_dice"`        // on slices of 512 x 512
	OfficialHD95 *float64 `json:"official_hd95_voxels"` // of all voxels; nil where a mask is empty
	OfficialNSD  float64  `json:"official_nsd"`         // within 2 voxels
	// Of the official procedure for tracked volumes: slices without truth don't count.
	OfficialVideoDice *float64 `json:"official_video_dice"`
	OfficialVideoIoU  *float64 `json:"official_video_iou"`
}

// VolumeMeans are means over volumes; HD95 over those where both masks have voxels.
type VolumeMeans struct {
	Phrase            string   `json:"phrase,omitempty"`
	Volumes           int      `json:"volumes"`
	Dice              float64  `json:"dice"`
	HD95              *float64 `json:"hd95_mm"`
	Missed            int      `json:"missed"` // volumes without HD95
	NSD               float64  `json:"nsd"`
	OfficialDice      float64  `json:"official_dice"`
	OfficialHD95      *float64 `json:"official_hd95_voxels"`
	OfficialNSD       float64  `json:"official_nsd"`
	OfficialVideoDice *float64 `json:"official_video_dice"`
	OfficialVideoIoU  *float64 `json:"official_video_iou"`
}

// A VolumeSummary is the document of a run.
type VolumeSummary struct {
	Schema      string             `json:"schema"`
	Model       unibiomed.ModelRef `json:"model"`
	Mode        string             `json:"mode"`
	ToleranceMM float64            `json:"nsd_tolerance_mm"`
	Volumes     int                `json:"volumes"`
	Failed      int                `json:"failed"`
	Mean        VolumeMeans        `json:"mean"`    // over phrases
	Phrases     []VolumeMeans      `json:"phrases"` // each over its volumes
	Scores      []VolumeScore      `json:"scores"`
	Notice      string             `json:"notice"`
}

// Journals names the files in Dir that keep unfinished work.
func (r VolumeRun) Journals() (out []string) {
	if r.Dir != "" {
		for _, s := range r.Samples {
			out = append(out, r.journal(s))
		}
	}
	return out
}

func (r VolumeRun) journal(s VolumeSample) string {
	return filepath.Join(r.Dir, strings.ReplaceAll(s.ID, "/", "__")+".journal")
}

// Do asks about every volume and scores it. A volume that can't be read, asked about or scored is counted as failed; a canceled
// context ends the run.
func (r VolumeRun) Do(ctx context.Context, p *unibiomed.Pipeline) (*VolumeSummary, error) {
	sum := &VolumeSummary{Schema: VolumesSchema, Mode: "slices", ToleranceMM: cmp.Or(r.Tolerance, 2), Phrases: []VolumeMeans{},
		Scores: []VolumeScore{}, Notice: unibiomed.Notice}
	if r.Options.Track {
		sum.Mode = "track"
	}
	for i, s := range r.Samples {
		if r.Started != nil {
			r.Started(i, len(r.Samples), s)
		}
		scores, err := r.one(ctx, p, s, sum)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			sum.Failed++
			if r.Failed != nil {
				r.Failed(s, err)
			}
			continue
		}
		sum.Volumes++
		sum.Scores = append(sum.Scores, scores...)
	}
	sum.summarize()
	return sum, nil
}

func (r VolumeRun) one(ctx context.Context, p *unibiomed.Pipeline, s VolumeSample, sum *VolumeSummary) ([]VolumeScore, error) {
	v, err := openOne(ctx, s.Image, r.Modality)
	if err != nil {
		return nil, err
	}
	var phrases []string
	for _, t := range s.Targets {
		phrases = append(phrases, t.Phrase)
	}
	o := r.Options
	if o.File = s.ID; r.Dir != "" {
		o.Journal = r.journal(s)
	}
	res, err := p.SegmentVolume(ctx, v, phrases, o)
	if err != nil {
		return nil, err
	}
	sum.Model = res.Model
	var out []VolumeScore
	for i, t := range s.Targets {
		truth, err := t.read(ctx, v)
		if err != nil {
			return nil, err
		}
		score, err := scoreVolume(res.Targets[i].Label.Mask, truth, v, res.Viewer.View, sum.ToleranceMM)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Phrase, err)
		}
		score.ID, score.Phrase = s.ID, t.Phrase
		out = append(out, *score)
	}
	return out, nil
}

func openOne(ctx context.Context, path, modality string) (*vol.Volume, error) {
	s, err := study.Open(ctx, path, study.Options{Modality: modality})
	if err != nil {
		return nil, err
	}
	if len(s.Items) != 1 {
		return nil, &DatasetError{File: path, Msg: fmt.Sprintf("%d volumes, want 1", len(s.Items))}
	}
	return s.Items[0].Volume, nil
}

// read returns the true mask on the grid of v, which must be its own.
func (t VolumeTarget) read(ctx context.Context, v *vol.Volume) (*vol.Mask, error) {
	truth, err := openOne(ctx, t.File, "")
	if err != nil {
		return nil, err
	}
	if truth.Dims != v.Dims || truth.Channels != 1 {
		return nil, &DatasetError{File: t.File, Field: "size", Msg: fmt.Sprintf("%v, the volume has %v", truth.Dims, v.Dims)}
	}
	for row := range v.Affine {
		for col, x := range v.Affine[row] {
			if y := truth.Affine[row][col]; math.Abs(x-y) > 1e-3+1e-4*math.Abs(x) {
				return nil, &DatasetError{File: t.File, Field: "affine", Msg: fmt.Sprintf("%v in LPS, the volume has %v", truth.Affine, v.Affine)}
			}
		}
	}
	m, slice := vol.NewMask(v.Dims), make([]float32, truth.SliceLen())
	for k := range v.Dims[2] {
		if err := truth.ReadSlice(k, slice); err != nil {
			return nil, err
		}
		for i, x := range slice {
			if t.Value == 0 && x > 0 || t.Value != 0 && x == float32(t.Value) {
				m.Set(i%v.Dims[0], i/v.Dims[0], k, true)
			}
		}
	}
	return m, nil
}

func number(x float64) *float64 {
	if math.IsNaN(x) {
		return nil
	}
	return &x
}

// scoreVolume measures on the volume's grid, and as the official scripts on the slices that the model saw.
func scoreVolume(pred, truth *vol.Mask, v *vol.Volume, view *vol.View, tolerance float64) (*VolumeScore, error) {
	o, err := metrics.CountVoxels(pred, truth)
	if err != nil {
		return nil, err
	}
	s := &VolumeScore{Voxels: Pixels{o.Pred, o.Truth, o.Both}, Dice: 1}
	if o.Pred+o.Truth > 0 {
		s.Dice = o.Dice()
	}
	strict, err := metrics.StrictSurface(pred, truth, v.Affine.Spacing(), tolerance)
	if err != nil {
		return nil, err
	}
	s.HD95, s.NSD = number(strict.HD95), strict.NSD

	shown := func(m *vol.Mask) (*vol.Mask, error) {
		out, slice := vol.NewMask([3]int{view.Columns, view.Rows, view.Slices}), make([]uint8, view.Columns*view.Rows)
		for n := range view.Slices {
			if err := view.MaskSlice(m, n, slice); err != nil {
				return nil, err
			}
			for i, x := range slice {
				if x != 0 {
					out.Set(i%view.Columns, i/view.Columns, n, true)
				}
			}
		}
		return out, nil
	}
	p, err := shown(pred)
	if err != nil {
		return nil, err
	}
	t, err := shown(truth)
	if err != nil {
		return nil, err
	}
	s.OfficialVideoDice, s.OfficialVideoIoU = videoScores(p, t)
	if p, err = metrics.OfficialSlices(p); err != nil {
		return nil, err
	}
	if t, err = metrics.OfficialSlices(t); err != nil {
		return nil, err
	}
	if o, err = metrics.CountVoxels(p, t); err != nil {
		return nil, err
	}
	official, err := metrics.OfficialSurface(p, t)
	if err != nil {
		return nil, err
	}
	s.OfficialDice, s.OfficialHD95, s.OfficialNSD = o.OfficialDice(), number(official.HD95), official.NSD
	return s, nil
}

// videoScores counts only slices that the truth shows (spec/evaluation.md 5).
func videoScores(pred, truth *vol.Mask) (dice, iou *float64) {
	p, t := make([]uint8, pred.Dims[0]*pred.Dims[1]), make([]uint8, pred.Dims[0]*pred.Dims[1])
	var o metrics.Overlap
	for k := range truth.Dims[2] {
		if !truth.Slice(k, t) {
			continue
		}
		pred.Slice(k, p)
		for i := range t {
			o.Pred, o.Truth, o.Both = o.Pred+int(p[i]), o.Truth+int(t[i]), o.Both+int(p[i]&t[i])
		}
	}
	return number(o.Dice()), number(o.IoU())
}

func (s *VolumeSummary) summarize() {
	byPhrase := map[string][]VolumeScore{}
	for _, x := range s.Scores {
		byPhrase[x.Phrase] = append(byPhrase[x.Phrase], x)
	}
	for _, phrase := range slices.Sorted(maps.Keys(byPhrase)) {
		all := byPhrase[phrase]
		m := VolumeMeans{Phrase: phrase, Volumes: len(all)}
		rows := make([]VolumeMeans, len(all))
		for i, x := range all {
			rows[i] = VolumeMeans{Dice: x.Dice, HD95: x.HD95, NSD: x.NSD, OfficialDice: x.OfficialDice, OfficialHD95: x.OfficialHD95,
				OfficialNSD: x.OfficialNSD, OfficialVideoDice: x.OfficialVideoDice, OfficialVideoIoU: x.OfficialVideoIoU}
			if x.HD95 == nil {
				m.Missed++
			}
		}
		m.mean(rows)
		s.Phrases = append(s.Phrases, m)
		s.Mean.Volumes, s.Mean.Missed = s.Mean.Volumes+m.Volumes, s.Mean.Missed+m.Missed
	}
	s.Mean.mean(s.Phrases)
}

// mean sets the scores of m to the means of rows; those without a value are left out.
func (m *VolumeMeans) mean(rows []VolumeMeans) {
	if len(rows) == 0 {
		return
	}
	n := float64(len(rows))
	some := func(of func(VolumeMeans) *float64) *float64 {
		sum, k := 0.0, 0
		for _, r := range rows {
			if x := of(r); x != nil {
				sum, k = sum+*x, k+1
			}
		}
		return number(sum / float64(k))
	}
	for _, r := range rows {
		m.Dice, m.NSD = m.Dice+r.Dice/n, m.NSD+r.NSD/n
		m.OfficialDice, m.OfficialNSD = m.OfficialDice+r.OfficialDice/n, m.OfficialNSD+r.OfficialNSD/n
	}
	m.HD95 = some(func(r VolumeMeans) *float64 { return r.HD95 })
	m.OfficialHD95 = some(func(r VolumeMeans) *float64 { return r.OfficialHD95 })
	m.OfficialVideoDice = some(func(r VolumeMeans) *float64 { return r.OfficialVideoDice })
	m.OfficialVideoIoU = some(func(r VolumeMeans) *float64 { return r.OfficialVideoIoU })
}

// RemoveJournals removes what kept unfinished work, once a summary is safe.
func (r VolumeRun) RemoveJournals() error {
	for _, path := range r.Journals() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
