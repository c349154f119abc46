#!/usr/bin/env bash
# kcat in the scenario of ../README.md. It has no call that creates a topic (asking for metadata does, where auto-creation is on, with
# `num.partitions`), and it commits by itself: as often as told here.
set -euo pipefail
bootstrap=$1 command=$2
shift 2
case $command in
  create) kcat -b "$bootstrap" -L -t "$1" -X allow.auto.create.topics=true >/dev/null ;;
  produce)
    for ((i = $3; i < $4; i++)); do echo "k$((i % 10)):v$i"; done |
      kcat -b "$bootstrap" -P -t "$1" -K : -z "$2" -X acks=all -X enable.idempotence=true
    echo "acked $(($4 - $3))" ;;
  consume)
    kcat -b "$bootstrap" -q -u -G "$2" -c "$3" -f '%s\t%p\t%o\n' -X auto.offset.reset=earliest -X session.timeout.ms=6000 \
      -X auto.commit.interval.ms=50 "$1" ;;
  times)
    for p in $(kcat -b "$bootstrap" -L -t "$1" | sed -n 's/^ *partition \([0-9]*\),.*/\1/p'); do
      kcat -b "$bootstrap" -Q -t "$1:$p:$2" | sed -E 's/.*\[([0-9]+)\] offset (-?[0-9]+).*/\1 \2/'
    done ;;
  large)
    if head -c "$2" /dev/zero | tr '\0' x | kcat -b "$bootstrap" -P -t "$1" -D '|' -X message.max.bytes=20000000 2>/tmp/kcat-large.$$; then
      echo accepted
    elif grep -q 'too large' /tmp/kcat-large.$$; then echo refused
    else cat /tmp/kcat-large.$$ >&2; exit 1; fi
    rm -f /tmp/kcat-large.$$ ;;
esac
