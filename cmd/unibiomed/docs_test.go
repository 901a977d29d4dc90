package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var link = regexp.MustCompile(`\]\(([^)#]+)\)`)

// Links between pages lead somewhere, pages have no machine paths, and the README names every verb.
func TestPages(t *testing.T) {
	root := filepath.Join("..", "..")
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(m[1], "://") {
				require.FileExists(t, filepath.Join(filepath.Dir(page), m[1]), page)
			}
		}
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	verbs := reflect.TypeFor[cli]()
	for i := range verbs.NumField() {
		verb := strings.ToLower(verbs.Field(i).Name)
		if verb != "version" {
			require.Contains(t, string(readme), "`"+verb, "README.md names every verb")
		}
	}
}

// The program in the README is Example.
func TestReadmeProgram(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	example, err := os.ReadFile(filepath.Join("..", "..", "unibiomed", "example_test.go"))
	require.NoError(t, err)
	body := func(text, start string) string {
		_, after, ok := strings.Cut(text, start)
		require.True(t, ok, start)
		code, _, ok := strings.Cut(after, "\n}\n")
		require.True(t, ok)
		return code
	}
	require.Equal(t, body(string(readme), "func main() {\n"), body(string(example), "func Example() {\n"))
}
