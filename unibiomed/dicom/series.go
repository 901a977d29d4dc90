package dicom

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// Options choose how volumes are made. The zero value is ready to use.
type Options struct {
	volume.Limits
	// Activity leaves the values of PET in the unit of the file. Without it they become SUV where the header allows.
	Activity bool
}

// A Study is the images of one examination.
type Study struct {
	UID    string
	Series []*Series
}

// A Series is the images of one run of a machine.
type Series struct {
	UID      string
	Modality string
	Number   int
	Files    []*File // in the order of their paths
}

// A Folder is what was found in a tree of files.
type Folder struct {
	Studies []*Study
	// Errors has one error for each file that could not be read or holds no image; Skipped counts files that are not DICOM.
	Errors  []error
	Skipped int
}

// Scan reads the headers of all DICOM files in the tree at root, or of the one file, and sorts them into studies and series. A
// bad file becomes an entry of Errors and never stops the rest; the error is only about root itself or ctx.
func Scan(ctx context.Context, root string) (*Folder, error) {
	out := &Folder{}
	studies, series := map[string]*Study{}, map[[2]string]*Series{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if path == root {
				return err
			}
			out.Errors = append(out.Errors, err)
			return nil
		}
		if d.IsDir() {
			return nil
		}
		f, err := Open(path)
		if err == nil {
			_, err = f.Pixels()
		}
		if err != nil {
			var bad *volume.FormatError
			if errors.As(err, &bad) && bad.Field == "header" {
				out.Skipped++
				if path != root {
					return nil
				}
			}
			out.Errors = append(out.Errors, err)
			return nil
		}
		study, uid := f.Data.Text(StudyInstanceUID), f.Data.Text(SeriesInstanceUID)
		if studies[study] == nil {
			studies[study] = &Study{UID: study}
			out.Studies = append(out.Studies, studies[study])
		}
		key := [2]string{study, uid}
		if uid == "" {
			key[1] = path // without a series, a file is one of its own
		}
		if series[key] == nil {
			n, _ := f.Data.Int(SeriesNumber)
			series[key] = &Series{UID: uid, Modality: f.Data.Text(Modality), Number: n}
			studies[study].Series = append(studies[study].Series, series[key])
		}
		series[key].Files = append(series[key].Files, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, s := range out.Studies {
		slices.SortStableFunc(s.Series, func(a, b *Series) int { return cmp.Compare(a.Number, b.Number) })
	}
	return out, nil
}

// A FrameRef is one frame of a file.
type FrameRef struct {
	File  *File
	Frame int // counted from 0
}

// A Stack is a volume with the frames that its slices come from.
type Stack struct {
	*volume.Volume
	Slices []FrameRef // Slices[k] is slice k of the volume
}

// Stacks makes the volumes of one file, as [Series.Stacks] does. Most hold one.
func (f *File) Stacks(o Options) ([]*Stack, error) { return (&Series{Files: []*File{f}}).Stacks(o) }

// A member is a frame on its way into a stack.
type member struct {
	FrameRef
	pixels *Pixels
	slice  volume.Slice
	placed bool
}

// A CopiesWarning says that files hold an instance that another file of the series holds too; one of each was read.
type CopiesWarning struct{ Files int }

func (e *CopiesWarning) Error() string {
	return fmt.Sprintf("dicom: %d files are copies of others by their instance and were left out", e.Files)
}

// Stacks sorts the frames of a series into volumes: frames of one orientation, size and spacing form a stack, sorted along
// its normal; frames that lie at the same places (time points, echoes) form one stack after the other; scout views,
// frames without a place and slides are apart. The volumes read their voxels from the files when asked.
func (s *Series) Stacks(o Options) ([]*Stack, error) {
	var groups [][]member
	var out []*Stack
	seen, copies := map[string]bool{}, 0
	for _, f := range s.Files {
		if uid := f.Data.Text(SOPInstanceUID); uid != "" && seen[uid] {
			copies++
			continue
		} else {
			seen[uid] = true
		}
		p, err := f.Pixels()
		if err != nil {
			return nil, err
		}
		if v, err := f.mosaic(p, o); v != nil || err != nil {
			if err != nil {
				return nil, named(err, f.Path)
			}
			out = append(out, v)
			continue
		}
		var alone []member // frames of this file that have no place
		for i := range p.Frames {
			m := member{FrameRef: FrameRef{f, i}, pixels: p}
			if m.slice, m.placed = f.place(p, i); !m.placed {
				alone = append(alone, m)
				continue
			}
			g := slices.IndexFunc(groups, func(g []member) bool {
				return g[0].placed && g[0].slice.Parallel(m.slice) && g[0].pixels.samePixels(p) && g[0].File.isLocalizer() == f.isLocalizer() &&
					g[0].File.Data.Text(FrameOfReferenceUID) == f.Data.Text(FrameOfReferenceUID)
			})
			if g < 0 {
				groups = append(groups, []member{m})
			} else {
				groups[g] = append(groups[g], m)
			}
		}
		if alone != nil {
			groups = append(groups, alone)
		}
	}
	for _, g := range groups {
		for _, part := range unpile(g) {
			v, err := newStack(part, o)
			if err != nil {
				return nil, named(err, part[0].File.Path)
			}
			out = append(out, v)
		}
	}
	if copies > 0 {
		for _, v := range out {
			v.Warnings = append(v.Warnings, &CopiesWarning{copies})
		}
	}
	return out, nil
}

// unpile splits a group in which each place occurs equally often into as many stacks, in the order of acquisition.
func unpile(g []member) [][]member {
	if !g[0].placed || len(g) < 2 {
		return [][]member{g}
	}
	normal := g[0].slice.Normal()
	slices.SortStableFunc(g, func(a, b member) int {
		x, y := a.slice.Position.Dot(normal), b.slice.Position.Dot(normal)
		if d := x - y; d > 1e-3 || d < -1e-3 {
			return cmp.Compare(x, y)
		}
		for _, t := range []Tag{TemporalPositionIdentifier, AcquisitionNumber, EchoTime, DiffusionBValue, TriggerTime, InstanceNumber} {
			x, _ := a.File.Data.Float(t)
			y, _ := b.File.Data.Float(t)
			if c := cmp.Compare(x, y); c != 0 {
				return c
			}
		}
		return cmp.Compare(a.Frame, b.Frame)
	})
	var sizes []int // how many frames lie at each place
	for i := range g {
		if i > 0 && g[i].slice.Position.Dot(normal)-g[i-1].slice.Position.Dot(normal) <= 1e-3 {
			sizes[len(sizes)-1]++
		} else {
			sizes = append(sizes, 1)
		}
	}
	n := sizes[0]
	if n == 1 || slices.ContainsFunc(sizes, func(x int) bool { return x != n }) {
		return [][]member{g}
	}
	out := make([][]member, n)
	for i, m := range g {
		out[i%n] = append(out[i%n], m)
	}
	return out
}

func newStack(g []member, o Options) (*Stack, error) {
	f, p := g[0].File, g[0].pixels
	v := &volume.Volume{Dims: [3]int{p.Columns, p.Rows, len(g)}, Channels: p.channels(), Placed: g[0].placed}
	st := &Stack{Volume: v}
	if v.Placed {
		places := make([]volume.Slice, len(g))
		for i := range g {
			places[i] = g[i].slice
		}
		l, err := volume.Stack(places, f.depth(g[0].Frame))
		if err != nil {
			return nil, err
		}
		v.Affine, v.Dims[2], v.Warnings = l.Affine, len(l.Order), l.Warnings
		for _, i := range l.Order {
			st.Slices = append(st.Slices, g[i].FrameRef)
			if !l.Even {
				v.Positions = append(v.Positions, places[i].Position)
			}
		}
	} else {
		step := 1.0
		if x := f.depth(g[0].Frame); x > 0 {
			step = x
		}
		s := g[0].slice.Spacing
		v.Affine = volume.NewAffine(volume.Vec{s[0]}, volume.Vec{0, s[1]}, volume.Vec{0, 0, step}, volume.Vec{})
		if !f.isMosaic() { // which has a warning of its own
			v.Warnings = append(v.Warnings, fmt.Errorf("dicom: the header does not place the image in the patient: left and right are unknown"))
		}
		for i := range g {
			st.Slices = append(st.Slices, g[i].FrameRef)
		}
	}
	for _, r := range st.Slices {
		for _, w := range r.File.warnings() {
			if !slices.ContainsFunc(v.Warnings, func(x error) bool { return x.Error() == w.Error() }) {
				v.Warnings = append(v.Warnings, w)
			}
		}
	}
	st.describe(f, g[0].Frame, p)
	vox := &frames{refs: st.Slices, limits: o.Limits, channels: v.Channels}
	if v.Modality == "PT" && !o.Activity && v.Channels == 1 {
		vox.factors = make([]float64, len(st.Slices))
		for k, r := range st.Slices {
			x, err := r.File.suv()
			if err != nil {
				v.Warnings, vox.factors = append(v.Warnings, err), nil
				break
			}
			vox.factors[k] = x
		}
		if vox.factors != nil {
			v.Unit = "SUVbw"
		}
	}
	v.Voxels = vox
	return st, nil
}

// describe sets what the header says about the values.
func (st *Stack) describe(f *File, frame int, p *Pixels) {
	v := st.Volume
	v.Modality, v.BodyPart = f.Data.Text(Modality), f.Data.Text(BodyPartExamined)
	v.Inverted = p.Photometric == "MONOCHROME1"
	slope, intercept := f.rescale(frame)
	v.Levels = v.Channels == 3 || p.Stored == 8 && !p.Signed && slope == 1 && intercept == 0 && v.Modality != "CT" && v.Modality != "PT"
	v.Windows = f.windows(frame, p.Signed)
	switch unit := f.Data.Text(RescaleType); {
	case v.Modality == "PT":
		v.Unit = f.Data.Text(Units)
	case unit != "" && unit != "US":
		v.Unit = unit
	case v.Modality == "CT":
		v.Unit = "HU"
	case f.Data.Find(DoseGridScaling) != nil:
		v.Unit = f.Data.Text(DoseUnits)
	}
}

// frames reads the voxels of a stack from its files.
type frames struct {
	refs     []FrameRef
	limits   volume.Limits
	channels int
	factors  []float64 // of each slice, or nil
}

func (v *frames) slice(k int) (*volume.Dense, error) {
	d, channels, err := v.refs[k].File.Image(v.refs[k].Frame, v.limits)
	if err != nil {
		return nil, err
	}
	if channels != v.channels {
		return nil, named(broken(SamplesPerPixel.String(), "frame %d has %d channels, the volume %d", v.refs[k].Frame, channels, v.channels), v.refs[k].File.Path)
	}
	if v.factors != nil {
		d.Slope, d.Intercept = d.Slope*v.factors[k], d.Intercept*v.factors[k]
	}
	return d, nil
}

// ReadSlice implements [volume.Voxels].
func (v *frames) ReadSlice(k int, dst []float32) error {
	d, err := v.slice(k)
	if err != nil {
		return err
	}
	return d.ReadSlice(0, dst)
}

// Dense brings all slices into memory: as stored if they agree in type and scaling, as float32 otherwise.
func (v *frames) Dense() (*volume.Dense, error) {
	var out *volume.Dense
	for k := range v.refs {
		d, err := v.slice(k)
		if err != nil {
			return nil, err
		}
		if out == nil {
			if total := int64(len(d.Data)) * int64(len(v.refs)); total > v.limits.MaxBytes() {
				return nil, named(&volume.LimitError{Field: "volume", Want: total, Limit: v.limits.MaxBytes()}, v.refs[k].File.Path)
			}
			out = &volume.Dense{Type: d.Type, Slope: d.Slope, Intercept: d.Intercept, Data: make([]byte, 0, len(d.Data)*len(v.refs))}
		}
		if d.Type != out.Type || d.Slope != out.Slope || d.Intercept != out.Intercept {
			toFloat32(out)
			toFloat32(d)
		}
		out.Data = append(out.Data, d.Data...)
	}
	return out, nil
}

// toFloat32 turns d into unscaled float32.
func toFloat32(d *volume.Dense) {
	if d.Type == volume.Float32 && d.Slope == 1 && d.Intercept == 0 {
		return
	}
	values := make([]float32, len(d.Data)/d.Type.Size())
	d.Values(0, values)
	*d = volume.Dense{Type: volume.Float32, Slope: 1, Data: volume.Float32Bytes(values)}
}
