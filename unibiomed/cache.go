package unibiomed

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// A route says how an image is prepared: a picture is tiled and rounded in one way, a slice of a video in another.
type route byte

const (
	picture route = iota
	slice
)

type imageKey [sha256.Size]byte

func keyOf(img *imaging.RGB, r route) imageKey {
	h := sha256.New()
	binary.Write(h, binary.LittleEndian, []int64{int64(r), int64(img.Width), int64(img.Height)})
	h.Write(img.Pix)
	return imageKey(h.Sum(nil))
}

// A seenImage keeps what was computed of one image: nil parts are not computed yet.
type seenImage struct {
	key        imageKey
	tiles      int
	embeddings []float32 // [tiles, TileTokens, Embd]
	features   *bindings.Features
	bytes      int64
}

// An imageCache keeps the most recently used images within a budget. It has no lock: the queue's holder owns it.
type imageCache struct {
	budget, used int64
	order        *list.List // of *seenImage, most recent first
	byKey        map[imageKey]*list.Element
}

func newImageCache(budget int64) *imageCache {
	return &imageCache{budget: budget, order: list.New(), byKey: map[imageKey]*list.Element{}}
}

// get returns the image's entry, new or known, as the most recent one.
func (c *imageCache) get(key imageKey) *seenImage {
	if e, ok := c.byKey[key]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*seenImage)
	}
	s := &seenImage{key: key}
	c.byKey[key] = c.order.PushFront(s)
	return s
}

// grew accounts for bytes that were added to s.
func (c *imageCache) grew(s *seenImage, bytes int64) {
	s.bytes += bytes
	c.used += bytes
}

// trim drops the least recently used images beyond the budget. It runs after an answer, so what the answer uses stays.
func (c *imageCache) trim() {
	for c.used > c.budget && c.order.Len() > 0 {
		c.drop(c.order.Back())
	}
}

func (c *imageCache) drop(e *list.Element) {
	s := c.order.Remove(e).(*seenImage)
	delete(c.byKey, s.key)
	c.used -= s.bytes
	if s.features != nil {
		s.features.Close()
	}
}

func (c *imageCache) clear() {
	for c.order.Len() > 0 {
		c.drop(c.order.Back())
	}
}
