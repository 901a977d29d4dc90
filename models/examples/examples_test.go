package examples

import (
	"bytes"
	"image"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every example can be opened, its region lies inside, and its source and licence are named, in README.md too.
func TestAll(t *testing.T) {
	all, err := All()
	require.NoError(t, err)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	modalities := map[string]bool{}
	for _, e := range all {
		img, truth, err := e.Open()
		require.NoError(t, err, e.Name)
		require.NotEmpty(t, e.Targets, e.Name)
		require.NotEmpty(t, e.Ask, e.Name)
		require.NotEmpty(t, e.Licence, e.Name)
		require.NotEmpty(t, e.Source, e.Name)
		require.LessOrEqual(t, max(img.Width, img.Height), 512, e.Name)
		require.False(t, e.Box().Empty(), e.Name)
		require.True(t, e.Box().In(image.Rect(0, 0, img.Width, img.Height)), e.Name)
		require.Equal(t, e.Phantom != "", truth != nil, e.Name)
		require.Equal(t, e.Phantom != "", strings.HasPrefix(e.Name, "phantom-"), e.Name)
		if e.File != "" {
			require.Contains(t, string(readme), "`"+e.File+"`")
		}
		modalities[e.Modality] = true
	}
	require.Len(t, modalities, 10)
}

// A phantom is the same every time, and shows something of a sensible size.
func TestPhantom(t *testing.T) {
	for _, name := range []string{"lesion", "polyp", "drusen"} {
		a, truth, err := Phantom(name)
		require.NoError(t, err)
		b, _, err := Phantom(name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(a.Pix, b.Pix))
		share := float64(truth.Area()) / float64(a.Width*a.Height)
		require.Greater(t, share, 0.005, name)
		require.Less(t, share, 0.4, name)
	}
	_, _, err := Phantom("liver")
	require.ErrorContains(t, err, "lesion, polyp, drusen")
}
