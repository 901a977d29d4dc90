package checkpoint

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// TestMemoryOfPublishedSize converts a checkpoint of the published layout, 4.05 GB with every weight zero, and watches the heap.
// The source is a sparse file; the result takes 0.7 GB. It runs when UNIBIOMED_FULL_SIZE is set.
func TestMemoryOfPublishedSize(t *testing.T) {
	if os.Getenv("UNIBIOMED_FULL_SIZE") == "" {
		t.Skip("takes a minute: set UNIBIOMED_FULL_SIZE=1 to run it")
	}
	source := publishedLayout(t)
	st, err := os.Stat(filepath.Join(source, safetensors.SingleName))
	require.NoError(t, err)
	require.InDelta(t, 4.046e9, float64(st.Size()), 2e6)

	var peak atomic.Uint64
	stop := make(chan struct{})
	go func() {
		var m runtime.MemStats
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.Sys-m.HeapReleased))
			}
		}
	}()
	start := time.Now()
	dest := filepath.Join(t.TempDir(), "model")
	summary, err := Convert(context.Background(), source, dest, Options{Language: "q4_0", Vision: "q4_0", Grounding: "q4_0", Quantizer: blocks})
	close(stop)
	require.NoError(t, err)
	t.Logf("%.1f s, %d MB at most", time.Since(start).Seconds(), peak.Load()>>20)
	require.Less(t, peak.Load(), uint64(300<<20))
	require.Equal(t, int32(151674), summary.Model.Tokens.Seg)
	_, err = Verify(context.Background(), dest, nil)
	require.NoError(t, err)
}

// publishedLayout writes a checkpoint with the published configuration, tokenizer and storage types, all zeros.
func publishedLayout(t *testing.T) string {
	dir := t.TempDir()
	tokenizer := shared(t, "golden/tokenizer/qwen2.5-unibiomed")
	entries, err := os.ReadDir(tokenizer)
	require.NoError(t, err)
	for _, e := range entries {
		copyFile(t, filepath.Join(tokenizer, e.Name()), filepath.Join(dir, e.Name()))
	}
	const configuration = `{"llm_config":{"architectures":["Qwen2ForCausalLM"],"hidden_size":896,"intermediate_size":4864,"num_hidden_layers":24,
		"num_attention_heads":14,"num_key_value_heads":2,"rms_norm_eps":1e-6,"rope_theta":1000000.0,"max_position_embeddings":32768,"vocab_size":151679},
		"vision_config":{"image_size":448,"patch_size":14,"hidden_size":1024,"num_hidden_layers":24,"num_attention_heads":16,"intermediate_size":4096,
		"qkv_bias":true},"ps_version":"v2","template":"phi3_chat"}`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(configuration), 0o666))
	var problems []error
	main, err := parseObject("config.json", []byte(configuration), &problems)
	require.NoError(t, err)
	c := parseConfig(main, object{problems: &problems}, object{problems: &problems})
	require.Empty(t, problems)
	rules, bakes := c.tensorRules()
	for _, b := range bakes {
		rules = append(rules, b.from...)
	}
	header, at := map[string]any{}, int64(0)
	for _, r := range rules {
		dtype := safetensors.F32
		if strings.HasPrefix(r.from, "vision_model.") {
			dtype = safetensors.BF16
		}
		n := dtype.Size()
		for _, s := range r.fromShape {
			n *= s
		}
		header[r.from] = map[string]any{"dtype": dtype, "shape": r.fromShape, "data_offsets": []int64{at, at + n}}
		at += n
	}
	h, err := json.Marshal(header)
	require.NoError(t, err)
	f, err := os.Create(filepath.Join(dir, safetensors.SingleName))
	require.NoError(t, err)
	_, err = f.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), h...))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(8+int64(len(h))+at))
	require.NoError(t, f.Close())
	return dir
}
