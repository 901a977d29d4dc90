package dicom

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// suv returns the factor from the rescaled values of a PET image to standardized uptake by body weight (g/ml), as the
// Quantitative Imaging Biomarkers Alliance describes it, or says why there is none.
func (f *File) suv() (float64, error) {
	d := f.Data
	missing := func(what string) (float64, error) {
		return 0, fmt.Errorf("dicom: values stay in %q and not in SUV: %s", d.Text(Units), what)
	}
	switch units := d.Text(Units); units {
	case "GML":
		return 1, nil
	case "CNTS":
		if x, _ := d.Float(PhilipsSUVScaleFactor); x > 0 {
			return x, nil
		}
		return missing("no scale factor")
	case "BQML":
	default:
		return missing("the unit is not one of activity")
	}
	if c := d.Texts(CorrectedImage); !slices.Contains(c, "ATTN") || !slices.Contains(c, "DECY") {
		return missing("not corrected for attenuation and decay")
	}
	weight, _ := d.Float(PatientWeight)
	r := d.Item(RadiopharmaceuticalInformationSequence)
	dose, _ := r.Float(RadionuclideTotalDose)
	half, _ := r.Float(RadionuclideHalfLife)
	if weight <= 0 || dose <= 0 || half <= 0 {
		return missing("weight, dose or half life is missing")
	}
	switch d.Text(DecayCorrection) {
	case "ADMIN":
	case "START":
		scan, ok := moment(d.Text(SeriesDate), d.Text(SeriesTime))
		taken, ok2 := moment(d.Text(AcquisitionDate), d.Text(AcquisitionTime))
		if !ok || ok2 && scan.After(taken) { // a series time of later processing
			return missing("the series time is missing or after the acquisition")
		}
		start, ok := time.Time{}, false
		if s := r.Text(RadiopharmaceuticalStartDateTime); len(s) >= 14 {
			start, ok = moment(s[:8], s[8:])
		}
		if !ok {
			start, ok = moment(d.Text(SeriesDate), r.Text(RadiopharmaceuticalStartTime))
			if start.After(scan) { // injected before midnight
				start = start.AddDate(0, 0, -1)
			}
		}
		wait := scan.Sub(start).Seconds()
		if !ok || wait < 0 || wait > 24*3600 {
			return missing("the time of injection is missing or does not fit")
		}
		dose *= math.Exp2(-wait / half)
	default:
		return missing("not corrected to the start of the scan or the injection")
	}
	return 1000 * weight / dose, nil
}

// moment reads a DICOM date and time; zone offsets are dropped.
func moment(date, clock string) (time.Time, bool) {
	clock, _, _ = strings.Cut(clock, "+")
	whole, frac, _ := strings.Cut(clock, ".")
	if len(whole) < 4 {
		return time.Time{}, false
	}
	whole = (whole + "00")[:6]
	t, err := time.Parse("20060102150405.999999", date+whole+"."+(frac + "0")[:min(len(frac)+1, 6)])
	return t, err == nil
}
