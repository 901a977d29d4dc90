package sr_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/sr"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

func TestReportIsValidAndReadBack(t *testing.T) {
	for _, name := range []string{"ct/pydicom_CT_small.dcm", "ct/suyashkumar_5.dcm", "xray/suyashkumar_4.dcm"} {
		f, err := dicom.Open(volumetest.Shared(t, "data", name))
		require.NoError(t, err)
		stacks, err := f.Stacks(dicom.Options{})
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "r.dcm")
		answer := "The vertebra is highlighted.\nNo Rückstand \\ rest."
		require.NoError(t, sr.Write(path, stacks[0], sr.Report{Derivation: dicom.Derivation{Software: "unibiomed", Version: "test"},
			Model: "nano 1", Instruction: "Segment the vertebra.", Answer: answer, Findings: []string{"vertebra"}}))

		t.Run("dciodvfy", func(t *testing.T) {
			out, _ := exec.Command(volumetest.Tool(t, "dciodvfy", "dicom3tools"), path).CombinedOutput()
			for _, line := range strings.Split(string(out), "\n") {
				if strings.HasPrefix(line, "Error") {
					t.Error(line)
				}
			}
		})
		t.Run("dsrdump", func(t *testing.T) {
			out, err := exec.Command(volumetest.Tool(t, "dsrdump", "dcmtk"), path).CombinedOutput()
			require.NoError(t, err, string(out))
			require.Contains(t, string(out), "The vertebra is highlighted.")
		})
		t.Run("pydicom", func(t *testing.T) {
			var got []string
			volumetest.Python(t, []string{"pydicom"}, `
import json, sys, pydicom
ds = pydicom.dcmread(sys.argv[1])
print(json.dumps([str(x.TextValue) for x in ds.ContentSequence if x.ValueType == "TEXT" and x.RelationshipType == "CONTAINS"]))`, &got, path)
			want := answer
			if f.Data.Text(dicom.SpecificCharacterSet) == "ISO_IR 100" {
				want = strings.ReplaceAll(answer, "ü", "?")
			}
			require.Equal(t, []string{sr.Notice, "Segment the vertebra.", want, "vertebra"}, got)
		})
	}
}
