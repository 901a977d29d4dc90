package evaluation

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// A Format is how a data set lies on disk.
type Format string

const (
	// BiomedParse is the layout of the official evaluation: test.json, the images in test/, the masks in test_mask/.
	BiomedParse Format = "biomedparse"
	// Index is index.jsonl, one line an image, with modality, group, split and targets; the rest beside it.
	Index Format = "index"
	// Pairs is any folder with IMAGE.png (or another image ending) beside IMAGE__TARGET.mask.png.
	Pairs Format = "pairs"
)

// A Dataset is a list of images and what is true of them.
type Dataset struct {
	Name    string
	Dir     string
	Format  Format
	Samples []Sample
}

// A Sample is one image.
type Sample struct {
	ID       string // unique in the data set, a relative path with slashes
	Image    string // path of the file
	Group    string // what bootstrap draws together: a patient, a volume, or the image alone
	Modality string // "" when unknown
	Targets  []Target
	Absent   []string // phrases of things that the image does not show
	Foreign  string   // a phrase of another modality, with a name that the image's own modality does not have; "" when unknown
	Findings string   // what the image shows as a whole, "no findings", or "" when unknown
}

// A Target is one thing to find.
type Target struct {
	Phrase string // as asked for, for instance "liver in abdomen CT"
	Label  string // as recognition must name it, for instance "tumor in liver CT"; "" when it is no finding, or not known to be one
	Mask   string // path of the file; pixels above 0 are inside
	Order  int    // place in the annotation file: the official segmentation score takes the first 300
}

// DatasetOptions configure OpenDataset. The zero value detects the format and takes the split "test".
type DatasetOptions struct {
	Format Format
	// Split is the split of an index, or "all". It defaults to "test". For BiomedParse it names the files: SPLIT.json, SPLIT/, SPLIT_mask/.
	Split string
	// Template makes the phrases of Pairs: {target} stands for the name in the mask's file name. It defaults to "{target}".
	Template string
	// Commercial leaves out what an index marks "noncommercial".
	Commercial bool
}

// A DatasetError says what is wrong with a data set.
type DatasetError struct {
	File  string
	Field string // "line 12: targets[0].phrase"
	Msg   string
}

func (e *DatasetError) Error() string {
	if e.Field == "" {
		return e.File + ": " + e.Msg
	}
	return e.File + ": " + e.Field + ": " + e.Msg
}

// Limits of what is read: lists are read whole.
const (
	maxList = 512 << 20
	maxLine = 1 << 20
)

// OpenDataset reads a data set's list. Images and masks are not opened. Errors: DatasetError, and those of the file system.
func OpenDataset(dir string, o DatasetOptions) (*Dataset, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &DatasetError{File: dir, Msg: "not a folder"}
	}
	o.Split, o.Template = cmp.Or(o.Split, "test"), cmp.Or(o.Template, "{target}")
	if o.Format == "" {
		if o.Format, err = detect(dir, o.Split); err != nil {
			return nil, err
		}
	}
	d := &Dataset{Name: filepath.Base(filepath.Clean(dir)), Dir: dir, Format: o.Format}
	switch o.Format {
	case BiomedParse:
		err = d.readBiomedParse(o)
	case Index:
		err = d.readIndex(o)
	case Pairs:
		err = d.readPairs(o)
	default:
		err = &DatasetError{File: dir, Field: "format", Msg: fmt.Sprintf("%q, want %s, %s or %s", o.Format, BiomedParse, Index, Pairs)}
	}
	if err != nil {
		return nil, err
	}
	if len(d.Samples) == 0 {
		return nil, &DatasetError{File: dir, Msg: fmt.Sprintf("no image in split %q", o.Split)}
	}
	return d, nil
}

const indexFile = "index.jsonl"

func detect(dir, split string) (Format, error) {
	for _, try := range []struct {
		file   string
		format Format
	}{{indexFile, Index}, {split + ".json", BiomedParse}} {
		if _, err := os.Stat(filepath.Join(dir, try.file)); err == nil {
			return try.format, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	found, err := maskFiles(dir)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", &DatasetError{File: dir, Msg: fmt.Sprintf("no data set: neither %s, nor %s.json, nor IMAGE__TARGET.mask.png files", indexFile, split)}
	}
	return Pairs, nil
}

// readLimited reads a whole list.
func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxList {
		return nil, &DatasetError{File: path, Field: "size", Msg: fmt.Sprintf("above %d bytes", maxList)}
	}
	return data, nil
}

// inside joins a name that a list gives to its folder; a name that leads elsewhere is refused.
func inside(dir, name string) (string, bool) {
	local := filepath.FromSlash(name)
	return filepath.Join(dir, local), name != "" && filepath.IsLocal(local)
}

// ------------------------------------------------------------------------------------------------------- BiomedParse

// readBiomedParse reads spec/evaluation.md 1. Annotations of one image become one sample.
func (d *Dataset) readBiomedParse(o DatasetOptions) error {
	path := filepath.Join(d.Dir, o.Split+".json")
	data, err := readLimited(path)
	if err != nil {
		return err
	}
	return d.parseBiomedParse(path, data, o.Split)
}

func (d *Dataset) parseBiomedParse(path string, data []byte, split string) error {
	var list struct {
		Annotations []struct {
			FileName  string `json:"file_name"`
			MaskFile  string `json:"mask_file"`
			Sentences []struct {
				Raw  string `json:"raw"`
				Sent string `json:"sent"`
			} `json:"sentences"`
		} `json:"annotations"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return &DatasetError{File: path, Msg: err.Error()}
	}
	samples := map[string]int{}
	for i, a := range list.Annotations {
		field := fmt.Sprintf("annotations[%d]", i)
		image, ok := inside(filepath.Join(d.Dir, split), a.FileName)
		if !ok {
			return &DatasetError{path, field + ".file_name", fmt.Sprintf("%q does not name a file below %s", a.FileName, split)}
		}
		mask, ok := inside(filepath.Join(d.Dir, split+"_mask"), a.MaskFile)
		if !ok {
			return &DatasetError{path, field + ".mask_file", fmt.Sprintf("%q does not name a file below %s_mask", a.MaskFile, split)}
		}
		if len(a.Sentences) == 0 || strings.TrimSpace(a.Sentences[0].Sent) == "" {
			return &DatasetError{path, field + ".sentences", "no sentence"}
		}
		phrase := a.Sentences[0].Sent
		at, known := samples[a.FileName]
		if !known {
			at = len(d.Samples)
			samples[a.FileName] = at
			_, modality, _ := splitPhrase(phrase)
			d.Samples = append(d.Samples, Sample{ID: a.FileName, Image: image, Group: volume(a.FileName), Modality: modality})
		}
		label := cmp.Or(a.Sentences[0].Raw, phrase)
		d.Samples[at].Targets = append(d.Samples[at].Targets, Target{Phrase: phrase, Label: label, Mask: mask, Order: i})
	}
	return nil
}

// volume is the group of a slice: volumes are named by the first two fields between dashes (spec/evaluation.md 5).
func volume(file string) string {
	fields := strings.SplitN(file, "-", 3)
	if len(fields) < 3 {
		return file
	}
	return fields[0] + "-" + fields[1]
}

// splitPhrase takes a phrase apart as the official scorer does: target in site modality.
func splitPhrase(phrase string) (target, modality string, ok bool) {
	words := strings.Fields(phrase)
	if len(words) == 0 {
		return "", "", false
	}
	target, _, ok = strings.Cut(phrase, " in ")
	return strings.TrimSpace(target), strings.TrimSuffix(words[len(words)-1], "."), ok
}

// ------------------------------------------------------------------------------------------------------------- index

// An indexLine is one line of index.jsonl.
type indexLine struct {
	Image         string  `json:"image"`
	Modality      string  `json:"modality"`
	Source        string  `json:"source"`
	Group         string  `json:"patient"`
	NonCommercial bool    `json:"noncommercial"`
	Findings      *string `json:"findings"`
	Split         string  `json:"split"`
	Targets       []struct {
		Phrase string `json:"phrase"`
		Mask   string `json:"mask"`
	} `json:"targets"`
	Absent []string `json:"absent"`
}

func (d *Dataset) readIndex(o DatasetOptions) error {
	path := filepath.Join(d.Dir, indexFile)
	data, err := readLimited(path)
	if err != nil {
		return err
	}
	return d.parseIndex(path, data, o)
}

func (d *Dataset) parseIndex(path string, data []byte, o DatasetOptions) error {
	type class struct{ source, modality string }
	annotated := map[class][]string{} // phrases that a source marks
	var empty []int                   // samples without a target
	var sources []class
	phrases := map[string]bool{}
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	number, order := 0, 0
	for lines.Scan() {
		number++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		field := fmt.Sprintf("line %d", number)
		var l indexLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return &DatasetError{path, field, err.Error()}
		}
		image, ok := inside(d.Dir, l.Image)
		if !ok {
			return &DatasetError{path, field + ": image", fmt.Sprintf("%q does not name a file below the index", l.Image)}
		}
		if seen[l.Image] {
			return &DatasetError{path, field + ": image", fmt.Sprintf("%q stands there twice", l.Image)}
		}
		seen[l.Image] = true
		s := Sample{ID: l.Image, Image: image, Group: cmp.Or(l.Group, l.Image), Modality: l.Modality, Absent: l.Absent}
		if l.Findings != nil {
			s.Findings = *l.Findings
		}
		c := class{l.Source, l.Modality}
		for i, t := range l.Targets {
			mask, ok := inside(d.Dir, t.Mask)
			if !ok {
				return &DatasetError{path, fmt.Sprintf("%s: targets[%d].mask", field, i), fmt.Sprintf("%q does not name a file below the index", t.Mask)}
			}
			if strings.TrimSpace(t.Phrase) == "" {
				return &DatasetError{path, fmt.Sprintf("%s: targets[%d].phrase", field, i), "is empty"}
			}
			target := Target{Phrase: t.Phrase, Mask: mask}
			if name, _, _ := strings.Cut(t.Phrase, " in "); strings.EqualFold(name, s.Findings) {
				target.Label = t.Phrase
			}
			s.Targets = append(s.Targets, target)
			if !o.Commercial || !l.NonCommercial {
				phrases[t.Phrase] = true
			}
			if !slices.Contains(annotated[c], t.Phrase) {
				annotated[c] = append(annotated[c], t.Phrase)
			}
		}
		if (o.Split != "all" && l.Split != o.Split) || (o.Commercial && l.NonCommercial) {
			continue
		}
		for i := range s.Targets {
			s.Targets[i].Order = order
			order++
		}
		if len(s.Targets) == 0 && len(s.Absent) == 0 && s.Findings == prompt.NoFindings {
			empty = append(empty, len(d.Samples))
		}
		d.Samples, sources = append(d.Samples, s), append(sources, c)
	}
	if err := lines.Err(); err != nil {
		return &DatasetError{path, fmt.Sprintf("line %d", number+1), err.Error()}
	}
	// A healthy image shows nothing that its source marks elsewhere. A target that is missing beside others may be unmarked only.
	for _, i := range empty {
		d.Samples[i].Absent = annotated[sources[i]]
	}
	list := slices.Sorted(maps.Keys(phrases))
	for i := range d.Samples {
		d.Samples[i].Foreign = foreign(d.Samples[i], list)
	}
	return nil
}

// foreign draws a phrase that certainly is not in the image, always the same for the same image.
func foreign(s Sample, phrases []string) string {
	var own []string // names of the image's modality
	for _, p := range phrases {
		if name, modality, ok := splitPhrase(p); ok && family(modality) == s.Family() {
			own = append(own, name)
		}
	}
	var others []string
	for _, p := range phrases {
		if name, modality, ok := splitPhrase(p); ok && family(modality) != s.Family() && !slices.Contains(own, name) {
			others = append(others, p)
		}
	}
	if len(others) == 0 || s.Modality == "" {
		return ""
	}
	h := fnv.New32a()
	h.Write([]byte(s.ID))
	return others[int(h.Sum32()%uint32(len(others)))]
}

// ------------------------------------------------------------------------------------------------------------- pairs

const (
	maskEnding = ".mask.png"
	maskMark   = "__"
)

func maskFiles(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(e.Name(), maskEnding) && strings.Contains(e.Name(), maskMark) {
			found = append(found, path)
		}
		return err
	})
	return found, err
}

func (d *Dataset) readPairs(o DatasetOptions) error {
	masks, err := maskFiles(d.Dir)
	if err != nil {
		return err
	}
	samples := map[string]int{}
	for order, mask := range masks {
		folder, file := filepath.Split(mask)
		cut := strings.LastIndex(file, maskMark)
		base, name := file[:cut], strings.TrimSuffix(file[cut+len(maskMark):], maskEnding)
		image, err := imageOf(filepath.Join(folder, base))
		if err != nil {
			return err
		}
		at, known := samples[image]
		if !known {
			at = len(d.Samples)
			samples[image] = at
			id, err := filepath.Rel(d.Dir, image)
			if err != nil {
				return err
			}
			id = filepath.ToSlash(id)
			d.Samples = append(d.Samples, Sample{ID: id, Image: image, Group: id})
		}
		phrase := strings.ReplaceAll(o.Template, "{target}", strings.ReplaceAll(name, "_", " "))
		s := &d.Samples[at]
		if s.Modality == "" && strings.Contains(o.Template, " in ") {
			_, s.Modality, _ = splitPhrase(phrase)
		}
		s.Targets = append(s.Targets, Target{Phrase: phrase, Label: phrase, Mask: mask, Order: order})
	}
	return nil
}

// imageOf finds the image of a mask by its base name.
func imageOf(base string) (string, error) {
	for _, ending := range []string{".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"} {
		if _, err := os.Stat(base + ending); err == nil {
			return base + ending, nil
		}
	}
	return "", &DatasetError{File: base + maskMark + "*" + maskEnding, Msg: "no image " + filepath.Base(base) + ".png beside it"}
}
