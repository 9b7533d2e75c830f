#!/usr/bin/env bash
# Asks a vLLM server with nothing but curl. See --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: curl.sh [--url URL] [--model NAME] [--api-key-file FILE] models
       curl.sh [...] chat QUESTION          one answer, as JSON
       curl.sh [...] stream QUESTION        the answer as it comes, as events
       curl.sh [...] complete TEXT          how the model would go on with a text
       curl.sh [...] image FILE QUESTION    an answer about an image, of a model that sees
       curl.sh [...] embed TEXT             a vector, of an embedding model

  --url URL            default http://127.0.0.1:8000/v1
  --model NAME         a name that `models` lists; wanted by all but `models`
  --api-key-file FILE  file with the API key; without it, VLLM_API_KEY

Exit status: 0 answered, 1 refused or not reached, 2 wrong usage.
TEXT
}

wrong() { printf 'curl.sh: %s\n\n' "$1" >&2; usage >&2; exit 2; }
fail() { printf 'curl.sh: %s\n' "$1" >&2; exit 1; }

url=http://127.0.0.1:8000/v1 model='' key=${VLLM_API_KEY:-}
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --url | --model | --api-key-file)
      [ $# -ge 2 ] || wrong "$1 wants a value"
      case "$1" in
        --url) url=${2%/} ;;
        --model) model=$2 ;;
        *) key=$(cat -- "$2") || fail "the key cannot be read from $2" ;;
      esac
      shift 2 ;;
    -*) wrong "$1 is no option" ;;
    *) break ;;
  esac
done

# Text as a JSON string.
json() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"} text=${text//$'\n'/\\n} text=${text//$'\r'/\\r} text=${text//$'\t'/\\t}
  printf '"%s"' "$text"
}

# curl reads the key from a pipe: what stands in its arguments, every user of this computer can see.
ask() {
  local status=0
  curl --silent --show-error --no-buffer --fail-with-body --connect-timeout 10 \
    --header @<([ -z "$key" ] || printf 'Authorization: Bearer %s\n' "$key") \
    --header 'Content-Type: application/json' "$@" || status=$?
  printf '\n'
  case "$status" in
    0) ;;
    6 | 7 | 28) fail "nobody answers at $url: is the address right, does the service run?" ;;
    22) fail "refused, see above (401: the key, in VLLM_API_KEY or --api-key-file; 503: the engine is starting)" ;;
    *) fail "curl ended with status $status" ;;
  esac
}

verb=${1:-}
case "$verb" in
  models) [ $# -eq 1 ] || wrong 'models wants nothing else'; ask "$url/models"; exit ;;
  chat | stream | complete | embed) [ $# -eq 2 ] || wrong "$verb wants one text" ;;
  image) [ $# -eq 3 ] || wrong 'image wants a file and a question' ;;
  *) wrong 'say what to do: models, chat, stream, complete, image or embed' ;;
esac
[ -n "$model" ] || wrong "$verb wants --model: the names are listed by \`models\`"

settings='"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05, "max_tokens": 512'
content=$(json "$2")
if [ "$verb" = image ]; then
  # The image travels inside the request. vLLM reads the image itself and not the type said here.
  image=$(base64 -w 0 -- "$2") || fail "$2 cannot be read"
  content="[{\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/png;base64,$image\"}},
    {\"type\": \"text\", \"text\": $(json "$3")}]"
fi
messages="[{\"role\": \"user\", \"content\": $content}]"
case "$verb" in
  chat) ask "$url/chat/completions" --data \
    "{\"model\": $(json "$model"), \"messages\": $messages, $settings}" ;;
  stream) ask "$url/chat/completions" --data \
    "{\"model\": $(json "$model"), \"messages\": $messages, $settings, \"stream\": true}" ;;
  # An image is too long for an argument: curl reads it from a pipe.
  image) ask "$url/chat/completions" --data @- \
    <<<"{\"model\": $(json "$model"), \"messages\": $messages, $settings}" ;;
  embed) ask "$url/embeddings" --data "{\"model\": $(json "$model"), \"input\": $(json "$2")}" ;;
  complete) ask "$url/completions" --data \
    "{\"model\": $(json "$model"), \"prompt\": $(json "$2"), $settings}" ;;
esac
