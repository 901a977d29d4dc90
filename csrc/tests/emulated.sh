#!/usr/bin/env bash
# emulated.sh CPU PROGRAM [ARGUMENT...]: runs a test program on an emulated processor, for what the processor at hand lacks.
#
#   csrc/tests/emulated.sh arrow_lake build/cpu/csrc/test-accel -d
#   FILES=models/examples/xray.png csrc/tests/emulated.sh tigerlake build/bin/unibiomed segment xray.png 'left lung' --json
#
# CPU: tigerlake (AVX-512 with VNNI), arrow_lake (AVX-VNNI), or another that Bochs knows; with sapphire_rapids Bochs 3.0 stops.
# PROGRAM is compiled for that processor or one with less. Bochs boots a Linux kernel whose file system in memory holds the
# program, the libraries that it is linked with, and oneDNN; their output is that of the first serial line. It shows
# whether results are right, and says nothing about speed: some minutes for a second of the processor at hand.
#
# BOCHS    Bochs 3.0 or newer, from source: configure --enable-x86-64 --enable-cpu-level=6 --enable-avx --enable-evex
#          --enable-all-optimizations --with-nogui (`bochs` on the path by default)
# FILES    files and folders that the program reads, copied into its folder
# KERNEL   a bootable Linux kernel (vmlinuz), with nothing it needs in modules; Debian's linux-image-cloud-amd64 is one
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^set/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2; exit 2; }
cpu=$1 program=$2
shift 2

bochs=${BOCHS:-bochs} kernel=${KERNEL:-}
bios=/usr/share/bochs/BIOS-bochs-latest vga=/usr/share/vgabios/vgabios.bin
boot=/usr/lib/ISOLINUX/isolinux.bin loader=/usr/lib/syslinux/modules/bios/ldlinux.c32
missing=
bochs=$(realpath -e "$(command -v "$bochs")" 2>/dev/null) || missing+=" Bochs (BOCHS)"  # it starts in another folder
[ -f "$kernel" ] || missing+=" a kernel (KERNEL)"
for need in "$bios bochsbios" "$vga vgabios" "$boot isolinux" "$loader syslinux-common" "/bin/busybox busybox-static" "/usr/bin/xorriso xorriso" "/usr/bin/cpio cpio"; do
	[ -e "${need% *}" ] || missing+=" ${need#* }"
done
[ -z "$missing" ] || { echo "emulated.sh: skipped, missing:$missing" >&2; exit 77; }

work=$(mktemp -d)
emulator=
trap '[ -z "$emulator" ] || kill "$emulator" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,proc,sys,dev,tmp,test,lib,lib64} "$work/iso"

# --- what the emulated machine sees
cp /bin/busybox "$work/root/bin/"
ln -s busybox "$work/root/bin/sh"
strip -o "$work/root/test/program" "$program"
# shellcheck disable=SC2086  # a list of paths
[ -z "${FILES:-}" ] || cp -rL $FILES "$work/root/test/"
onednn=$(ldconfig -p | sed -n 's/.*libdnnl\.so\.[0-9]* .*=> //p' | sed 1q)
libraries=$({ ldd "$program"; [ -z "$onednn" ] || ldd "$onednn"; } | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' | sort -u)
# shellcheck disable=SC2086  # a list of paths
cp -L $libraries $onednn "$work/root/lib/"
cp -L /lib64/ld-linux-x86-64.so.2 "$work/root/lib64/"
cat >"$work/root/init" <<INIT
#!/bin/sh
busybox mount -t proc none /proc; busybox mount -t sysfs none /sys; busybox mount -t devtmpfs none /dev; busybox mount -t tmpfs none /tmp
echo "begin: \$(busybox sed -n '/model name/{s/.*: //p;q}' /proc/cpuinfo)"
cd /test
LD_LIBRARY_PATH=/lib ${UNIBIOMED_ACCEL:+UNIBIOMED_ACCEL=$UNIBIOMED_ACCEL }./program ${*@Q}
echo "end: \$?"
busybox sleep 1
busybox poweroff -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/iso/initrd"

# Bochs has no bit for fast strings, without which the kernel's memmove must not be told of short ones (fsrm), and stumbles over
# the kernel's test of indirect branch tracking (ibt).
cp "$kernel" "$work/iso/vmlinuz"
cp "$boot" "$loader" "$work/iso/"
cat >"$work/iso/isolinux.cfg" <<'MENU'
default linux
prompt 0
label linux
 kernel vmlinuz
 append initrd=initrd console=ttyS0 quiet nosmp mitigations=off tsc=reliable lpj=4000000 random.trust_cpu=on ibt=off clearcpuid=fsrm,ibt
MENU
xorriso -as mkisofs -quiet -o "$work/disk.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$work/iso" 2>/dev/null

# --- the machine. A tick of the kernel (250 Hz) every 80,000 instructions, so that a thread that waits for another does not wait long.
cat >"$work/bochsrc" <<CONFIG
cpu: model=$cpu, count=1, ips=20000000, ignore_bad_msrs=1
memory: guest=1024, host=1024
romimage: file=$bios
vgaromimage: file=$vga
ata0: enabled=1
ata0-master: type=cdrom, path=$work/disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
clock: sync=none
log: $work/log
panic: action=fatal
error: action=ignore
info: action=ignore
display_library: nogui
CONFIG
: >"$work/serial"
(cd "$work" && exec "$bochs" -q -f bochsrc) >"$work/out" 2>&1 </dev/null &
emulator=$!
tail -n +1 -f --pid="$emulator" "$work/serial" | sed -u 's/\r$//' &
shown=$!
wait "$emulator" || true  # Bochs calls the power going off an error
emulator=
wait "$shown"
code=$(sed -n 's/^end: \([0-9]*\).*/\1/p' "$work/serial")
[ -n "$code" ] || { tail -n 5 "$work/out" "$work/log" >&2; echo "emulated.sh: the machine stopped before the program did" >&2; exit 1; }
exit "$code"
