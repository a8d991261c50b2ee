// A snippet's values as JSON: JSON values as they are, anything else as what console.log would show of it.
'use strict'

const { inspect } = require('node:util')

const MAX_DEPTH = 200 // the host nests no deeper
const INTEGER = '\0integer' // key of the objects in which the agent sends integers that a number cannot hold
const MARK = '... [cut]'

class NotJson extends Error {}

class TooLarge extends Error {
  constructor(size) {
    super(`the value needs ${size} bytes of JSON or more`)
    this.size = size
  }
}

// JSON text of a value. Whole bigints are integers, and members that are undefined are left out, as JSON.stringify does.
// Throws NotJson with the path of the first part that is no JSON value, TooLarge as soon as it passes the limit.
function encode (value, limitBytes = Infinity) {
  let size = 0
  const parts = []
  const put = text => {
    size += text.length
    if (size > limitBytes) throw new TooLarge(size)
    parts.push(text)
  }
  write(value, put, '', 0)
  const text = parts.join('')
  const bytes = Buffer.byteLength(text)
  if (bytes > limitBytes) throw new TooLarge(bytes)
  return text
}

function write (value, put, path, depth) {
  if (depth > MAX_DEPTH) throw new NotJson(`${path.slice(0, 80)}...: nested deeper than ${MAX_DEPTH} levels, or within itself`)
  const scalar = scalarText(value)
  if (scalar !== undefined) return put(scalar)
  if (Array.isArray(value)) return writeArray(value, put, path, depth)
  if (isPlain(value)) return writeObject(value, put, path, depth)
  throw new NotJson(`${path || 'it'}: ${describe(value)} is not a JSON value; use objects, arrays, strings, numbers, booleans or null`)
}

function scalarText (value) {
  switch (typeof value) {
    case 'string': return JSON.stringify(value)
    case 'boolean': return String(value)
    case 'bigint': return String(value)
    case 'undefined': return 'null'
    case 'number': return Number.isFinite(value) ? (Object.is(value, -0) ? '-0.0' : String(value)) : undefined
  }
  return value === null ? 'null' : undefined
}

function writeArray (value, put, path, depth) {
  put('[')
  for (let index = 0; index < value.length; index++) {
    if (index) put(',')
    write(value[index], put, `${path}[${index}]`, depth + 1)
  }
  put(']')
}

function writeObject (value, put, path, depth) {
  let separator = '{'
  for (const key of Object.keys(value)) {
    if (value[key] === undefined) continue
    put(`${separator}${JSON.stringify(key)}:`)
    write(value[key], put, path ? `${path}.${key}` : key, depth + 1)
    separator = ','
  }
  put(separator === '{' ? '{}' : '}')
}

function isPlain (value) {
  if (typeof value !== 'object') return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}

// A frame of the agent. An integer in it that no number can hold exactly is a bigint.
function decode (text) {
  return text.includes('\\u0000integer') ? JSON.parse(text, revive) : JSON.parse(text)
}

function revive (key, value) {
  return typeof value?.[INTEGER] === 'string' ? BigInt(value[INTEGER]) : value
}

// What console.log would show, no longer than the limit in bytes. Never throws.
function represent (value, limitBytes) {
  let text
  try {
    text = inspect(value, { depth: 8, maxArrayLength: 10000, maxStringLength: limitBytes })
  } catch {
    text = `<unrepresentable ${describe(value)}>`
  }
  return cut(text, limitBytes)
}

function cut (text, limitBytes) {
  if (Buffer.byteLength(text) <= limitBytes) return text
  return Buffer.from(text).subarray(0, Math.max(0, limitBytes - MARK.length)).toString().replace(/\uFFFD+$/, '') + MARK
}

function describe (value) {
  if (typeof value === 'number') return String(value)
  if (typeof value !== 'object') return `a ${typeof value}`
  try {
    return `a ${value.constructor.name}`
  } catch {
    return 'an object'
  }
}

module.exports = { NotJson, TooLarge, cut, decode, describe, encode, isPlain, represent }
