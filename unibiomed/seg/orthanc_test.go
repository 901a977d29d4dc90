package seg_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/seg"
	"github.com/unibiomed/go-unibiomed/unibiomed/sr"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

// freePort returns a port of the loopback that nobody listens on.
func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// alone runs the calling test again in a network namespace that has a loopback and nothing else, for servers that listen on every
// address. It returns false in that second run, which is the one that tests.
func alone(t *testing.T) bool {
	const inside = "UNIBIOMED_TEST_ALONE"
	if os.Getenv(inside) != "" {
		return false
	}
	unshare, ip := volumetest.Tool(t, "unshare", "util-linux"), volumetest.Tool(t, "ip", "iproute2")
	if err := exec.Command(unshare, "--net", "--map-root-user", ip, "link", "set", "lo", "up").Run(); err != nil {
		t.Skipf("no network namespace for a server that listens on every address: unshare: %v", err)
	}
	cmd := exec.Command(unshare, "--net", "--map-root-user", "sh", "-c", `"$1" link set lo up && exec "$2" -test.v -test.run "^$3\$"`, "sh", ip, os.Args[0], t.Name())
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "the test did not run")
	return true
}

// TestOrthanc stores a series, a segmentation and a report of it in a real archive, asks it for them and gets them back. Orthanc binds
// its DICOM port to every address.
func TestOrthanc(t *testing.T) {
	tool := volumetest.Tool(t, "Orthanc", "orthanc")
	if alone(t) {
		return
	}
	dir := t.TempDir()
	port, dicomPort := freePort(t), freePort(t)
	config, err := json.Marshal(map[string]any{"StorageDirectory": dir, "IndexDirectory": dir, "HttpPort": port, "DicomPort": dicomPort,
		"DicomAlwaysAllowStore": true, "DicomAlwaysAllowFind": true, "DicomAlwaysAllowGet": true,
		"RemoteAccessAllowed": false, "AuthenticationEnabled": false, "Plugins": []string{}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "orthanc.json"), config, 0o600))
	cmd := exec.Command(tool, filepath.Join(dir, "orthanc.json"))
	require.NoError(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()

	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	require.Eventually(t, func() bool {
		r, err := http.Get(base + "/system")
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	}, 60*time.Second, 200*time.Millisecond, "Orthanc does not answer")
	call := func(r *http.Response, err error) []byte {
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.StatusCode, string(b))
		return b
	}

	st := stack(t, sources["three CT slices"]...)
	want := labels(st.Dims)
	segPath, srPath := filepath.Join(dir, "seg.dcm"), filepath.Join(dir, "sr.dcm")
	require.NoError(t, seg.Write(segPath, st, want, options))
	require.NoError(t, sr.Write(srPath, st, sr.Report{Derivation: options.Derivation, Answer: "The liver is highlighted."}))
	files := []string{segPath, srPath}
	for _, s := range st.Slices {
		files = append(files, s.File.Path)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		call(http.Post(base+"/instances", "application/dicom", bytes.NewReader(b)))
	}

	// All five are in one study, and the segmentation is found by its modality.
	var found []string
	require.NoError(t, json.Unmarshal(call(http.Get(base+"/studies")), &found))
	require.Len(t, found, 1)
	query := `{"Level": "Instance", "Query": {"Modality": "SEG", "SeriesNumber": "900"}}`
	require.NoError(t, json.Unmarshal(call(http.Post(base+"/tools/find", "application/json", bytes.NewBufferString(query))), &found))
	require.Len(t, found, 1)
	back := filepath.Join(dir, "back.dcm")
	require.NoError(t, os.WriteFile(back, call(http.Get(base+"/instances/"+found[0]+"/file")), 0o600))
	f, err := dicom.Open(back)
	require.NoError(t, err)
	checkFrames(t, st, want, f)

	// The same by the DICOM protocol, as a workstation does.
	t.Run("dcmtk", func(t *testing.T) {
		out := t.TempDir()
		scu := func(name string, args ...string) string {
			args = append([]string{"-aec", "ORTHANC", "127.0.0.1", fmt.Sprint(dicomPort)}, args...)
			b, err := exec.Command(volumetest.Tool(t, name, "dcmtk"), args...).CombinedOutput()
			require.NoError(t, err, string(b))
			return string(b)
		}
		scu("storescu", "-R", segPath)
		study := f.Data.Text(dicom.StudyInstanceUID)
		answer := scu("findscu", "-S", "-k", "QueryRetrieveLevel=SERIES", "-k", "StudyInstanceUID="+study, "-k", "Modality=SEG", "-k", "SeriesInstanceUID")
		require.Contains(t, answer, f.Data.Text(dicom.SeriesInstanceUID))
		scu("getscu", "-S", "-od", out, "-k", "QueryRetrieveLevel=SERIES", "-k", "StudyInstanceUID="+study, "-k", "SeriesInstanceUID="+f.Data.Text(dicom.SeriesInstanceUID))
		got, err := dicom.Scan(context.Background(), out)
		require.NoError(t, err)
		require.Empty(t, got.Errors)
		require.Len(t, got.Studies, 1)
		require.Len(t, got.Studies[0].Series[0].Files, 1)
		checkFrames(t, st, want, got.Studies[0].Series[0].Files[0])
	})
}
