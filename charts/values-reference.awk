# Turns a values.yaml into the rows of a Markdown table: the comments that begin with "# --" say what the value below does.
# Fails on a value without such a comment. Values are scalars, or lists and maps in one line.

function path(depth,   i, joined) {
  for (i = 0; i <= depth; i++) joined = joined (i ? "." : "") names[i]
  return joined
}

/^ *# -- / { text = $0; sub(/^ *# -- /, "", text); next }
/^ *#/     { if (text != "") { line = $0; sub(/^ *# ?/, "", line); text = text " " line }; next }
/^ *$/     { text = ""; next }

{
  match($0, /^ */); depth = RLENGTH / 2
  line = substr($0, RLENGTH + 1)
  colon = index(line, ":")
  names[depth] = substr(line, 1, colon - 1)
  value = substr(line, colon + 1); sub(/^ +/, "", value)
  if (value == "" && text == "") next # a map: its members follow
  if (text == "") {
    printf "%s:%d: %s has no comment that begins with \"# --\"\n", FILENAME, FNR, path(depth) > "/dev/stderr"
    failed = 1
  }
  gsub(/\|/, "\\|", value); gsub(/\|/, "\\|", text)
  printf "| `%s` | `%s` | %s |\n", path(depth), value, text
  text = ""
}

END { exit failed }
