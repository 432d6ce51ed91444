#!/usr/bin/env bash
# A Dask scheduler and N workers as processes of this machine, on loopback and free ports.
set -euo pipefail

readonly WAIT_SECONDS=60 # for all workers to register
readonly TERM_SECONDS=5  # between asking a process to end and killing it

usage() {
  cat <<'END'
Usage: local-cluster.sh start --dir DIR [--workers N] [--threads T] [--memory SIZE] [--tls]
       local-cluster.sh stop --dir DIR

start  start a scheduler and N workers (default 2) on 127.0.0.1, wait until all are there
stop   end exactly those processes; nothing happens if they are gone already

  --dir DIR      where address, *.pid, *.log and tls/ are written
  --workers N    worker processes (1-512)
  --threads T    threads of each worker (default 1)
  --memory SIZE  memory limit of each worker: auto (default) or a size like 2GiB
  --tls          encrypt; every peer shows a certificate, made in DIR/tls

The interpreter is python3, or $PYTHON; gcdask must be installed there.
Use the cluster with: gcdask run CONFIG.yaml --out OUT --scheduler "$(cat DIR/address)"
END
}

refuse() { # a mistake in the arguments
  printf 'local-cluster.sh: %s\n' "$1" >&2
  exit 2
}

fail() {
  printf 'local-cluster.sh: %s\n' "$1" >&2
  exit 1
}

count() { # NAME VALUE LARGEST
  if [[ ! $2 =~ ^[1-9][0-9]{0,3}$ ]] || (($2 > $3)); then
    refuse "$1 $2 is no number from 1 to $3; give one"
  fi
}

parse() {
  action=${1:-}
  case $action in
    start | stop) shift ;;
    -h | --help) usage && exit 0 ;;
    '') refuse "no command; give start or stop (see --help)" ;;
    *) refuse "$action is unknown; give start or stop (see --help)" ;;
  esac
  dir='' workers=2 threads=1 memory=auto tls=no
  while (($#)); do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --tls) tls=yes && shift && continue ;;
      --dir | --workers | --threads | --memory) ;;
      *) refuse "$1 is unknown; see --help" ;;
    esac
    [[ -n ${2:-} && $2 != --* ]] || refuse "$1 has no value; give one (see --help)"
    case $1 in
      --dir) dir=$2 ;;
      --workers) workers=$2 && count --workers "$2" 512 ;;
      --threads) threads=$2 && count --threads "$2" 512 ;;
      --memory) memory=$2 ;;
    esac
    shift 2
  done
  [[ -n $dir ]] || refuse "--dir is missing; give the cluster's folder, --dir DIR"
  [[ $memory =~ ^(auto|[0-9]+(\.[0-9]+)?[kMGT]?i?B)$ ]] ||
    refuse "--memory $memory is no memory size; give auto or a size like 2GiB"
}

# -- processes --------------------------------------------------------------------------------
alive() { # PID: whether it is (still) a process of this cluster, and no zombie
  local command
  if [[ -r /proc/self/cmdline ]]; then
    command=$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") || return 1
  else
    command=$(ps -ww -p "$1" -o args=) || return 1
  fi
  # the second form is how Dask renames its processes where setproctitle is installed
  [[ $command == *"$dir/scheduler.json"* || $command =~ ^dask\ (scheduler|worker) ]]
}

recorded() { # PIDs in the pid files that are processes of this cluster
  local file pid
  for file in "$dir"/worker-*.pid "$dir/scheduler.pid"; do
    [[ -f $file ]] || continue
    pid=$(<"$file")
    if [[ $pid =~ ^[0-9]+$ ]] && alive "$pid"; then echo "$pid"; fi
  done
}

stop() {
  local pids pid deadline signal
  pids=$(recorded)
  for signal in TERM KILL; do
    for pid in $pids; do
      if alive "$pid"; then kill "-$signal" "$pid" 2>/dev/null || true; fi
    done
    deadline=$((SECONDS + TERM_SECONDS))
    for pid in $pids; do
      while alive "$pid" && ((SECONDS < deadline)); do sleep 0.1; done
    done
  done
  rm -f "$dir"/worker-*.pid "$dir/scheduler.pid" "$dir/scheduler.json" "$dir/address"
  rm -rf "$dir/dask-scratch-space" # of workers that could not clean up
}

launch() { # NAME COMMAND...: in the background, its PID in NAME.pid, what it says in NAME.log
  local name=$1 pid
  shift
  "$@" >"$dir/$name.log" 2>&1 </dev/null &
  pid=$!
  echo $pid >"$dir/$name.pid"
  disown
  while kill -0 $pid 2>/dev/null && ! alive $pid; do sleep 0.01; done # still a copy of this shell
}

await() { # that the process WAITER ends well; a dead process of the cluster ends the wait
  local waiter=$1 name
  while kill -0 "$waiter" 2>/dev/null; do
    for name in "${names[@]}"; do
      if ! alive "$(<"$dir/$name.pid")"; then
        fail "$name ended at once: $(tail -n 1 "$dir/$name.log"); see $dir/$name.log"
      fi
    done
    sleep 0.1
  done
  wait "$waiter" || fail "not all $workers workers came within $WAIT_SECONDS s:\
 $(tail -qn 1 "$dir"/*.log | tail -n 1); see $dir/*.log"
}

# -- start ------------------------------------------------------------------------------------
certificates() { # a throw-away CA, whose key is not kept, and a certificate for loopback
  command -v openssl >/dev/null || fail "openssl is missing; install it, or leave out --tls"
  local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
  mkdir -p "$dir/tls"
  (
    cd "$dir/tls"
    rm -f ./*.pem
    openssl req -x509 "${key[@]}" -keyout ca-key.pem -out ca.pem -days 30 \
      -subj "/CN=gcdask local cluster" -addext "keyUsage=critical,keyCertSign"
    openssl req "${key[@]}" -keyout key.pem -out request.pem -subj "/CN=127.0.0.1"
    cat >extensions.pem <<'END'
subjectAltName=IP:127.0.0.1,DNS:localhost
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
END
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 30 \
      -extfile extensions.pem -out cert.pem
    rm -f ca-key.pem request.pem extensions.pem ./*.srl
    chmod 600 key.pem
  ) >"$dir/openssl.log" 2>&1 ||
    fail "openssl made no certificate: $(tail -n 1 "$dir/openssl.log"); see $dir/openssl.log"
}

start() {
  local protocol=tcp security=() names=(scheduler) k
  waiter='' # not local: the trap needs it
  [[ -z $(recorded) ]] || fail "$dir has a running cluster; stop it, or give another --dir"
  stop # removes what a killed cluster left behind
  rm -f "$dir"/*.log
  trap 'kill $waiter 2>/dev/null || true; stop' EXIT # unless all goes well
  if [[ $tls == yes ]]; then
    protocol=tls
    security=(--tls-ca-file "$dir/tls/ca.pem" --tls-cert "$dir/tls/cert.pem"
      --tls-key "$dir/tls/key.pem")
    certificates
    export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
  fi
  # tiles are the parallelism: one core per thread of a worker
  export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

  set -m # process groups of their own: Ctrl-C in this terminal does not reach them
  launch scheduler "$python" -m distributed.cli.dask_scheduler --host "$protocol://127.0.0.1" \
    --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file "$dir/scheduler.json" \
    ${security[@]+"${security[@]}"}
  for ((k = 0; k < workers; k++)); do
    names+=("worker-$k")
    launch "worker-$k" "$python" -m distributed.cli.dask_worker --name "worker-$k" \
      --scheduler-file "$dir/scheduler.json" --host "$protocol://127.0.0.1" --no-nanny \
      --nthreads "$threads" --memory-limit "$memory" --local-directory "$dir" \
      --no-dashboard ${security[@]+"${security[@]}"}
  done
  set +m

  "$python" -c "$ADDRESS" "$dir" "$workers" "$WAIT_SECONDS" "$tls" >"$dir/waiting.log" 2>&1 &
  waiter=$!
  await "$waiter"
  mv "$dir/waiting.log" "$dir/address"
  trap - EXIT
  echo "$workers workers at $(<"$dir/address"); stop them with: $0 stop --dir $dir"
}

# Waits until all workers have registered, and prints the scheduler's address.
readonly ADDRESS='
import json, logging, sys, time
from pathlib import Path
from distributed import Client
from distributed.security import Security

logging.disable()
folder, workers, seconds, tls = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
deadline = time.monotonic() + seconds
pem = {name: str(folder / "tls" / f"{name}.pem") for name in ("ca", "cert", "key")}
security = Security(
    tls_ca_file=pem["ca"], tls_client_cert=pem["cert"], tls_client_key=pem["key"]
) if tls == "yes" else None
file = folder / "scheduler.json"
while not file.exists() and time.monotonic() < deadline:
    time.sleep(0.1)
address = json.loads(file.read_text())["address"]
with Client(address, security=security, timeout=seconds) as client:
    client.wait_for_workers(workers, timeout=max(1, deadline - time.monotonic()))
print(address)
'

parse "$@"
if [[ $action == start ]]; then
  umask 077
  mkdir -p "$dir" 2>/dev/null || fail "cannot make $dir; give a folder that can be written"
fi
[[ -d $dir ]] || { [[ $action == stop ]] && exit 0; }
dir=$(cd "$dir" && pwd -P)
if [[ $action == stop ]]; then
  stop
else
  python=${PYTHON:-python3}
  "$python" -c 'import distributed, gcdask' 2>/dev/null ||
    fail "$python cannot import gcdask; install it there, or name another with PYTHON=..."
  start
fi
