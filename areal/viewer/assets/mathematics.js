// Typesets the formulas in a text. Temml reads the TeX; the elements are created here, so only these kinds can occur.

import { el } from "./dom.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const TAGS = new Set(("math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow ms mspace "
  + "msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none").split(" "));
const ATTRIBUTES = new Set(("accent accentunder columnalign columnlines columnspacing depth display displaystyle fence form "
  + "height largeop linethickness lspace mathvariant maxsize minsize movablelimits notation rowlines rowspacing rspace "
  + "scriptlevel separator stretchy symmetric voffset width").split(" "));
const STYLES = /^(?:padding|border|text-align)/; // no colors: a model could choose that of the page
const LONGEST = 2000; // of one formula, in characters
const MOST = 1000; // formulas of one text
const INLINE = /^\$(?!\s)([^$\n]*[^$\s\\])\$(?!\d)/; // `$5 and $10` is not a formula
const ENDS = { "$$": "$$", "\\[": "\\]", "\\(": "\\)" };
const BEGINS = /\$\$?|\\\[|\\\(|\\boxed\{/g;

// The position at which the brace that opens at `from` is closed, or -1.
function closing(text, from) {
  let depth = 0;
  for (let i = from; i < text.length && i < from + LONGEST; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i;
  }
  return -1;
}

// The formula that begins at `at`: {tex, end, display}; null if there is none.
function formulaAt(text, at, begin) {
  if (begin === "$") {
    const found = INLINE.exec(text.slice(at, at + LONGEST));
    return found && { tex: found[1], end: at + found[0].length, display: false };
  }
  if (begin === "\\boxed{") {
    const end = closing(text, at + begin.length - 1);
    return end <= at + begin.length ? null : { tex: text.slice(at, end + 1), end: end + 1, display: false };
  }
  const end = text.indexOf(ENDS[begin], at + begin.length);
  if (end < 0 || end - at > LONGEST) return null;
  return { tex: text.slice(at + begin.length, end), end: end + 2, display: begin !== "\\(" };
}

function made(node) {
  if (node.text !== undefined) return document.createTextNode(node.text);
  const known = TAGS.has(node.type);
  const element = node.type === undefined
    ? document.createDocumentFragment() : document.createElementNS(MATHML, known ? node.type : "mrow");
  if (known) {
    for (const [name, value] of Object.entries(node.attributes ?? {})) {
      if (ATTRIBUTES.has(name)) element.setAttribute(name, value);
    }
    for (const [name, value] of Object.entries(node.style ?? {})) {
      if (STYLES.test(name)) element.style.setProperty(name, value);
    }
  }
  for (const child of node.children ?? []) element.append(made(child));
  return element;
}

// The formula as an element; null if Temml cannot read it.
function typeset({ tex, end, display }, source) {
  let tree;
  try {
    tree = temml.__renderToMathMLTree(tex, { displayMode: display, throwOnError: true, trust: false, maxExpand: 200 });
  } catch (error) {
    return null; // a text may have anything between dollars
  }
  return el("span", { class: display ? "formula display" : "formula", title: source, dir: "ltr" }, made(tree));
}

// A text as nodes, with its formulas typeset and everything else unchanged.
export function withMathematics(text) {
  const nodes = [];
  let [shown, formulas] = [0, 0];
  BEGINS.lastIndex = 0;
  for (let found; formulas < MOST && (found = BEGINS.exec(text));) {
    const formula = formulaAt(text, found.index, found[0]);
    const element = formula && typeset(formula, text.slice(found.index, formula.end));
    if (!element) continue;
    nodes.push(text.slice(shown, found.index), element);
    shown = BEGINS.lastIndex = formula.end;
    formulas++;
  }
  return [...nodes, text.slice(shown)].filter((node) => node !== "");
}
