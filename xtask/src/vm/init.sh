#!/bin/sh
# First process of the virtual machine: runs every program in /tests and tells how it ended on the second serial port.
export PATH=/bin LD_LIBRARY_PATH=/lib64 RUST_BACKTRACE=0
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
for module in /modules/*.ko; do
    insmod "$module"
done
ip link set lo up
for test in /tests/*; do
    "$test" --test-threads 2
    echo "ended ${test##*/} $?" > /dev/ttyS1
done
echo "done" > /dev/ttyS1
poweroff -f
