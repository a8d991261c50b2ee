// How a snippet ended, as the fields of the `finished` frame; all text in them is bounded.
'use strict'

const { types } = require('node:util')
const { FILENAME } = require('./snippet.js')
const { TooLarge, cut, encode, represent } = require('./values.js')

const MESSAGE_BYTES = 16 * 1024
const TRACEBACK_BYTES = 64 * 1024
const MAX_CAUSES = 10
const PLACE = /^ +at .*<snippet>:(\d+):(\d+)/m
const MAX_JSON_PER_BYTE = 6

function completed (value, valueBytes) {
  if (process.exitCode) return { kind: 'exited', exit_code: Number(process.exitCode) }
  try {
    return { kind: 'completed', value: encode(value, valueBytes), is_repr: false }
  } catch (error) {
    if (error instanceof TooLarge) return { kind: 'too_large', size: error.size }
    // No JSON value, or whatever the getters of a snippet's object throw.
    const text = represent(value, Math.floor(valueBytes / MAX_JSON_PER_BYTE))
    return { kind: 'completed', value: JSON.stringify(text), is_repr: true }
  }
}

// What escaped from the snippet, which may throw anything.
function fault (thrown) {
  const isError = thrown instanceof Error || types.isNativeError(thrown)
  const stack = isError ? field(thrown, 'stack') : ''
  const [, line = 0, column = 0] = PLACE.exec(stack) ?? []
  return {
    type: cut(isError ? nameOf(thrown) : typeof thrown, MESSAGE_BYTES),
    message: isError ? cut(field(thrown, 'message'), MESSAGE_BYTES) : represent(thrown, MESSAGE_BYTES),
    line: Number(line),
    column: Number(column),
    traceback: cut(isError ? withCauses(thrown) : '', TRACEBACK_BYTES)
  }
}

// What the parser says of the code, or Node of what the parser has let pass.
function syntaxFault (error, snippet) {
  const { line, column } = error.loc ? snippet.parsed(error.loc) : compiled(error, snippet)
  const message = error.message.replace(/ \(\d+:\d+\)$/, '')
  const caret = ' '.repeat(Math.max(0, column - 1 - snippet.removedIndent)) + '^'
  const shown = [`${FILENAME}:${line}`, snippet.line(line), caret, `SyntaxError: ${message}`].join('\n')
  return { type: 'SyntaxError', message, line, column, traceback: cut(shown, TRACEBACK_BYTES) }
}

function compiled (error, snippet) {
  const [, line, carets] = /^<snippet>:(\d+)\n.*\n( *)\^/.exec(error.stack) ?? []
  return line ? { line: Number(line), column: snippet.column(Number(line), carets.length + 1) } : { line: 0, column: 0 }
}

function withCauses (error) {
  const parts = []
  for (let cause = error; types.isNativeError(cause) && parts.length < MAX_CAUSES; cause = causeOf(cause)) {
    parts.push(field(cause, 'stack'))
  }
  return parts.join('\n[cause]: ')
}

function causeOf (error) {
  try {
    return error.cause
  } catch {
    return undefined // a getter of the snippet's
  }
}

function nameOf (error) {
  try {
    return String(error.constructor.name || error.name)
  } catch {
    return 'Error'
  }
}

function field (error, name) {
  try {
    return String(error[name])
  } catch {
    return '<unprintable>'
  }
}

module.exports = { completed, fault, syntaxFault }
