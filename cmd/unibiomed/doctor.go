package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed"
)

type doctorCmd struct {
	modelFlags
	JSON bool `help:"Print the findings as JSON."`
}

func (doctorCmd) Help() string {
	return `Says what this machine can do, and of what it can't, why. Exit code 1 when something needed is missing, 3 when the model does not
fit or the device does not exist.

Examples:
  unibiomed doctor
  unibiomed doctor --model unibiomed-1b-q8_0 --device cuda0 --json`
}

// A check is one thing that doctor looked at.
type check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warning, missing
	Text   string `json:"text"`
}

const (
	statusOK      = "ok"
	statusWarning = "warning"
	statusMissing = "missing"
)

type deviceDocument struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Description string `json:"description"`
	MemoryTotal uint64 `json:"memory_total_bytes"`
	MemoryFree  uint64 `json:"memory_free_bytes"`
}

// An examination is doctor's document.
type examination struct {
	Schema  string           `json:"schema"`
	Machine machine          `json:"machine"`
	Devices []deviceDocument `json:"devices"`
	Plan    *planDocument    `json:"memory_plan,omitempty"`
	Checks  []check          `json:"checks"`

	err error // the first failure
}

func (e *examination) add(name, status, format string, args ...any) {
	e.Checks = append(e.Checks, check{name, status, fmt.Sprintf(format, args...)})
}

// failed notes a failure; the first decides the exit code.
func (e *examination) failed(name string, err error) {
	e.add(name, statusMissing, "%v", err)
	if e.err == nil {
		e.err = err
	}
}

func (c *doctorCmd) Run(ctx context.Context, s *streams) error {
	if err := c.validate(); err != nil {
		return err
	}
	e := &examination{Schema: "unibiomed.doctor/1", Devices: []deviceDocument{}}
	var err error
	if e.Machine, err = thisMachine(); err != nil {
		e.failed("library", err)
	} else {
		e.add("library", statusOK, "%s, %s", e.Machine.Library, e.Machine.Linkage)
		c.examineDevices(e)
	}
	c.examineThreads(e)
	if e.err == nil {
		c.examineModel(e)
	}
	examineFolders(e)
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.JSON {
		err = encodeJSON(s.out, e, true)
	} else {
		err = e.print(s)
	}
	if err == nil && e.err != nil {
		err = errors.Join(e.err, errReported)
	}
	return err
}

func (c *doctorCmd) examineDevices(e *examination) {
	devices, err := bindings.Devices()
	if err != nil {
		e.failed("devices", err)
		return
	}
	gpu, known := false, c.Device == "auto" || c.Device == ""
	var names []string
	for _, d := range devices {
		e.Devices = append(e.Devices, deviceDocument{d.Name, d.Type.String(), d.Description, d.MemoryTotal, d.MemoryFree})
		names = append(names, d.Name)
		gpu = gpu || d.Type == bindings.DeviceGPU || d.Type == bindings.DeviceIntegratedGPU
		known = known || d.Name == c.Device
	}
	if !known {
		e.failed("device", fmt.Errorf("%w: no device %q here, there are: %s", bindings.DeviceFailed, c.Device, strings.Join(names, " ")))
		return
	}
	if gpu {
		e.add("gpu", statusOK, "found, used unless --device says otherwise")
		return
	}
	status, why := whyNoGPU()
	e.add("gpu", status, "%s", why)
}

// whyNoGPU tells a library without GPU backends from a machine without a GPU that it could use.
func whyNoGPU() (status, why string) {
	info, _ := bindings.BuildInfo()
	built := ""
	for _, backend := range []string{"cuda", "vulkan", "metal", "hip"} {
		if strings.Contains(strings.ToLower(info), backend) {
			built = backend
		}
	}
	_, nvidia := os.Stat("/proc/driver/nvidia/version")
	_, dri := os.Stat("/dev/dri/renderD128")
	switch {
	case built != "":
		return statusWarning, "none: the library has the " + built + " backend, but no device or driver answers"
	case nvidia == nil:
		return statusWarning, "none used: an NVIDIA driver is here, but the library was built for the CPU; build it with the preset cuda"
	case dri == nil:
		return statusWarning, "none used: a GPU is here (/dev/dri/renderD128), but the library was built for the CPU; build it with the preset vulkan"
	}
	return statusOK, "none; everything runs on the CPU"
}

func (c *doctorCmd) examineThreads(e *examination) {
	m := e.Machine
	threads, what := c.Threads, "as asked for"
	if threads == 0 {
		threads, what = m.Processors, "one a processor"
		if m.Cores > 0 && m.Cores < m.Processors {
			threads, what = m.Cores, "one a physical core"
		}
	}
	if threads > m.Processors {
		e.add("threads", statusWarning, "%d are asked for, but this process may use %d processors: they will wait for each other", threads, m.Processors)
	} else {
		e.add("threads", statusOK, "%d, %s", threads, what)
	}
	if m.MemoryTotal > 0 {
		e.add("memory", statusOK, "%s free of %s", bytesText(m.MemoryFree), bytesText(m.MemoryTotal))
	}
}

func (c *doctorCmd) examineModel(e *examination) {
	dir, err := c.dir()
	if err != nil {
		e.failed("model", err)
		return
	}
	if err := bindings.Check(unibiomed.ModelFiles(dir)); err != nil {
		e.failed("model", err)
		return
	}
	e.add("model", statusOK, "%s is sound (verify reads its checksums too)", dir)
	plan, err := unibiomed.PlanMemory(dir, c.options())
	if err != nil {
		e.failed("memory plan", err)
		return
	}
	e.Plan = newPlanDocument(plan)
	available := plan.Available
	if c.MemoryLimit > 0 {
		available = c.MemoryLimit
	}
	if plan.Total > available {
		e.failed("memory plan", fmt.Errorf("%w: the model and one answer take %s, %s are free: take a smaller --context, a quantized model or another --device",
			bindings.NoMemory, bytesText(plan.Total), bytesText(available)))
		return
	}
	e.add("memory plan", statusOK, "the model and one answer take %s of %s", bytesText(plan.Total), bytesText(available))
}

// examineFolders looks whether temporary files can be written.
func examineFolders(e *examination) {
	places := []struct{ name, dir string }{{"temporary folder", os.TempDir()}}
	if dir, err := os.UserCacheDir(); err != nil {
		e.add("cache folder", statusWarning, "%v: an embedded model is unpacked to the temporary folder", err)
	} else {
		places = append(places, struct{ name, dir string }{"cache folder", dir})
	}
	for _, p := range places {
		dir := p.dir
		for { // a folder that is not there yet is made where its parent lets us
			if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
				break
			}
			dir = filepath.Dir(dir)
		}
		f, err := os.CreateTemp(dir, ".unibiomed-*")
		if err != nil {
			e.add(p.name, statusWarning, "%v", err)
			continue
		}
		f.Close()
		os.Remove(f.Name())
		e.add(p.name, statusOK, "%s can be written", p.dir)
	}
}

func (e *examination) print(s *streams) error {
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	m := e.Machine
	cpu := m.CPU
	if cpu == "" {
		cpu = m.System
	}
	fmt.Fprintf(t, "cpu\t%s, %d processors\n", cpu, m.Processors)
	if len(m.Features) > 0 {
		fmt.Fprintf(t, "\t%s\n", strings.Join(m.Features, " "))
	}
	for _, d := range e.Devices {
		fmt.Fprintf(t, "device %s\t%s: %s, %s free of %s\n", d.Name, d.Type, d.Description, bytesText(d.MemoryFree), bytesText(d.MemoryTotal))
	}
	for _, c := range e.Checks {
		mark := ""
		if c.Status != statusOK {
			mark = strings.ToUpper(c.Status) + ": "
		}
		fmt.Fprintf(t, "%s\t%s%s\n", c.Name, mark, c.Text)
	}
	if e.Plan != nil {
		fmt.Fprintln(t)
		e.Plan.print(t)
	}
	fmt.Fprintf(t, "\n%s\n", unibiomed.Notice)
	return t.Flush()
}
