package jpeg

// Constants of the inverse DCT with 13 fraction bits.
const (
	constBits = 13
	f0_298    = 2446
	f0_390    = 3196
	f0_541    = 4433
	f0_765    = 6270
	f0_899    = 7373
	f1_175    = 9633
	f1_501    = 12299
	f1_847    = 15137
	f1_961    = 16069
	f2_053    = 16819
	f2_562    = 20995
	f3_072    = 25172
)

// inverseDCT writes the 8x8 samples of dequantized coefficients to out. flat says that only the first is not zero.
func inverseDCT(coef *[64]int, flat bool, precision int, out []uint16, stride int) {
	pass1 := 2 // fraction bits between the passes: fewer where samples have more
	if precision > 8 {
		pass1 = 1
	}
	centre, top := 1<<(precision-1), 1<<precision-1
	if flat {
		dc := coef[0] << pass1
		x := uint16(max(0, min((dc+1<<(pass1+2))>>(pass1+3)+centre, top)))
		for y := range 8 {
			line := out[y*stride:][:8]
			for i := range line {
				line[i] = x
			}
		}
		return
	}
	for x := range 8 {
		butterfly(coef, x, 8, constBits-pass1)
	}
	for y := range 8 {
		butterfly(coef, 8*y, 1, constBits+pass1+3)
		line := out[y*stride:][:8]
		for x := range line {
			line[x] = uint16(max(0, min(coef[8*y+x]+centre, top)))
		}
	}
}

// butterfly transforms eight values in place, step apart, and drops shift fraction bits with rounding.
func butterfly(c *[64]int, at, step, shift int) {
	in := func(i int) int { return c[at+i*step] }
	z1 := (in(2) + in(6)) * f0_541
	t2, t3 := z1-in(6)*f1_847, z1+in(2)*f0_765
	t0, t1 := (in(0)+in(4))<<constBits, (in(0)-in(4))<<constBits
	e0, e3, e1, e2 := t0+t3, t0-t3, t1+t2, t1-t2

	o0, o1, o2, o3 := in(7), in(5), in(3), in(1)
	z1, z2, z3, z4 := o0+o3, o1+o2, o0+o2, o1+o3
	z5 := (z3 + z4) * f1_175
	z1, z2, z3, z4 = -z1*f0_899, -z2*f2_562, z5-z3*f1_961, z5-z4*f0_390
	o0 = o0*f0_298 + z1 + z3
	o1 = o1*f2_053 + z2 + z4
	o2 = o2*f3_072 + z2 + z3
	o3 = o3*f1_501 + z1 + z4

	half := 1 << (shift - 1)
	put := func(i, x int) { c[at+i*step] = (x + half) >> shift }
	put(0, e0+o3)
	put(7, e0-o3)
	put(1, e1+o2)
	put(6, e1-o2)
	put(2, e2+o1)
	put(5, e2-o1)
	put(3, e3+o0)
	put(4, e3-o0)
}
