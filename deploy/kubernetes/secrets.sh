#!/usr/bin/env bash
# Makes the secrets that the manifests refer to, at random, once; nothing is printed, and no value stands on a command line.
#   deploy/kubernetes/secrets.sh [NAMESPACE]
# A password later:  kubectl get secret rbnn-mlflow -o jsonpath='{.data.admin-password}' | base64 -d
set -euo pipefail
namespace="${1:-default}"
umask 077
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
create() { # NAME: a secret of the files in $folder/NAME, unless it is there
  kubectl --namespace "$namespace" get secret "$1" >/dev/null 2>&1 && return
  kubectl --namespace "$namespace" create secret generic "$1" --from-file="$folder/$1" >/dev/null
}
mkdir "$folder"/rbnn-postgres "$folder"/rbnn-mlflow
random >"$folder/rbnn-postgres/password"
random >"$folder/rbnn-mlflow/secret-key"
random >"$folder/rbnn-mlflow/admin-password"
create rbnn-postgres
create rbnn-mlflow
