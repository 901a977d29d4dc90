package jpeg

// A huffman is a code table.
type huffman struct {
	set     bool
	quick   [256]uint16 // by the next 8 bits: length<<8 | value, 0 for longer codes
	maxcode [18]int     // by length: the largest code, or -1
	first   [17]int     // by length: index of the first value minus its code
	values  []byte
}

func (d *decoder) huffmanTables(b []byte) error {
	for len(b) > 0 {
		if len(b) < 17 || b[0]>>4 > 1 || b[0]&15 > 3 {
			return broken("DHT: %d bytes for table %02X", len(b), b[0])
		}
		t := &d.tables[b[0]>>4][b[0]&15]
		counts := b[1:17]
		n := 0
		for _, c := range counts {
			n += int(c)
		}
		if n > 256 || len(b) < 17+n {
			return broken("DHT: %d codes in %d bytes", n, len(b)-17)
		}
		*t = huffman{set: true, values: b[17 : 17+n]}
		code, k := 0, 0
		for length := 1; length <= 16; length++ {
			t.first[length] = k - code
			t.maxcode[length] = -1
			if c := int(counts[length-1]); c > 0 {
				if code+c > 1<<length {
					return broken("DHT: more codes of %d bits than there can be", length)
				}
				for range c {
					if length <= 8 {
						for pad := range 1 << (8 - length) {
							t.quick[code<<(8-length)|pad] = uint16(length)<<8 | uint16(t.values[k])
						}
					}
					code++
					k++
				}
				t.maxcode[length] = code - 1
			}
			code <<= 1
		}
		b = b[17+n:]
	}
	return nil
}

// bits reads the entropy-coded bits of a scan. Past their end it lends zeros, as codes are looked up ahead, and fails when
// a lent bit is used.
type bits struct {
	b        []byte
	acc      uint64 // the low n bits are next
	n        int
	borrowed int // of the n, bits that are not in the stream
}

// fill makes at least 16 bits ready.
func (r *bits) fill() {
	for r.n <= 48 {
		var x byte
		switch {
		case len(r.b) >= 2 && r.b[0] == 0xff && r.b[1] == 0:
			x, r.b = 0xff, r.b[2:]
		case len(r.b) >= 1 && r.b[0] != 0xff:
			x, r.b = r.b[0], r.b[1:]
		default: // a marker, or the end
			r.borrowed += 8
		}
		r.acc = r.acc<<8 | uint64(x)
		r.n += 8
	}
}

func (r *bits) take(n int) error {
	if r.n -= n; r.n < r.borrowed {
		return broken("the coded data end too early")
	}
	return nil
}

// decode returns the value of the next code.
func (r *bits) decode(t *huffman) (int, error) {
	if r.n < 16 {
		r.fill()
	}
	if q := t.quick[r.acc>>(r.n-8)&0xff]; q != 0 {
		return int(q & 0xff), r.take(int(q >> 8))
	}
	for length := 9; length <= 16; length++ {
		code := int(r.acc >> (r.n - length) & (1<<length - 1))
		if code <= t.maxcode[length] {
			return int(t.values[t.first[length]+code]), r.take(length)
		}
	}
	return 0, broken("a code that is in no table")
}

// extend returns the signed number of s bits that comes next (T.81, F.2.2.1).
func (r *bits) extend(s int) (int, error) {
	if s == 0 {
		return 0, nil
	}
	if r.n < 16 {
		r.fill()
	}
	x := int(r.acc >> (r.n - s) & (1<<s - 1))
	if x < 1<<(s-1) {
		x -= 1<<s - 1
	}
	return x, r.take(s)
}
