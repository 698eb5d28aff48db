"""The style sheet and the fixed text of the page of a report."""

CSS = """
:root { --ink: #1d242c; --soft: #5a6572; --line: #dfe4ea; --paper: #ffffff; --wash: #f5f7f9;
  --accent: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink); line-height: 1.45;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 12px; }
header p { margin: 0 0 16px; color: var(--soft); font-size: 16px; }
section { margin: 0 0 26px; }
section:not(.cards) { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 20px 22px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 20px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 20px 22px; border-top: 3px solid var(--accent); }
.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 0 0 24px; padding: 12px 22px;
  background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
.facts dt { color: var(--soft); font-size: 12.5px; font-weight: 400; }
.facts dd { font-weight: 600; }
.card h2 { margin-bottom: 10px; }
.figures { display: flex; gap: 28px; margin-bottom: 12px; }
.figures div { display: flex; flex-direction: column; color: var(--soft); font-size: 13px; }
.figures .value { font-size: 24px; font-weight: 650; color: var(--ink); line-height: 1.2; }
.lead { font-size: 16px; font-weight: 600; margin: 0 0 12px; }
.card ul { list-style: none; margin: 0; padding: 0; }
.card li { display: grid; grid-template-columns: 158px 1fr; gap: 12px; align-items: start;
  padding: 8px 0; border-top: 1px solid var(--line); font-size: 13.5px; }
.chip { display: inline-block; border-radius: 10px; padding: 1px 9px; font-size: 12px;
  font-weight: 600; line-height: 1.5; white-space: nowrap; }
.card li .chip { justify-self: start; }
.good { background: #e0f2e7; color: #14603a; }
.fair { background: #e1eefb; color: #0d4d8f; }
.bad { background: #fbe4de; color: #9c2b10; }
.open { background: #eceff2; color: #4a5460; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px; vertical-align: top; font-weight: 400; }
thead th { color: var(--soft); font-size: 12.5px; border-bottom: 1px solid #b9c2cc;
  white-space: nowrap; }
thead tr:first-child th { color: var(--ink); font-weight: 650; font-size: 14px; border: 0; }
tbody tr { border-top: 1px solid var(--line); }
.compare td { white-space: nowrap; font-size: 13.5px; }
.compare .model { border-left: 1px solid var(--line); padding-left: 14px; }
.compare .chip { margin-top: 2px; font-size: 11px; padding: 0 7px; }
.compare small { color: var(--soft); }
.compare tbody th { font-size: 13.5px; min-width: 150px; }
.compare th, .compare td { padding: 4px 10px; }
.wide + .wide, .below { margin-top: 18px; }
.even { table-layout: fixed; min-width: 760px; }
.even th:first-child { width: 270px; }
td.heat { background: rgb(214 84 40 / calc(var(--heat, 0) * 0.5)); }
.weak { color: #9aa4af; }
.part { min-width: 150px; }
.bar { display: inline-block; height: 9px; margin-right: 6px; background: var(--accent);
  border-radius: 2px; }
.bar.minus { background: #c8501e; }
.words td { font-size: 13.5px; line-height: 1.4; }
.words th { white-space: nowrap; font-size: 13.5px; }
.words .model { border-left: 1px solid var(--line); }
.words .chip { font-size: 11px; padding: 0 7px; margin-bottom: 3px; }
tr.band th { background: var(--wash); font-weight: 650; font-size: 12.5px; color: var(--soft); }
.setup th { color: var(--soft); width: 210px; font-size: 13.5px; }
.setup thead th { color: var(--ink); }
.setup thead th { width: auto; }
.setup td { font-size: 13.5px; }
.note, figcaption { color: var(--soft); font-size: 13px; margin: 10px 0 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 24px; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
.fields + .fields { margin-top: 22px; }
.guide dl { display: grid; grid-template-columns: 190px 1fr; gap: 8px 18px; margin: 0;
  font-size: 14px; }
.guide dt { font-weight: 650; }
dd { margin: 0; }
@media (max-width: 700px) { .cards, .pair { grid-template-columns: 1fr; }
  .guide dl, .card li { grid-template-columns: 1fr; } }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { background: #fff; font-size: 11px; } main { padding: 0; max-width: none; }
  section, .card, figure, tr { break-inside: avoid; } .wide { overflow: visible; }
  section:not(.cards), .card { padding: 10px 12px; }
  .compare td, .compare tbody th { font-size: 10px; padding: 3px 6px; }
  .chip, td.heat, .bar { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""

GUIDE = """<section class="guide"><h2>How to read this</h2><dl>
<dt>Defect</dt><dd>‖F(g·x) − g·F(x)‖ / ‖F(x) − mean‖: transform the input, or transform the output;
how far the two results are apart, relative to the fluctuation of the output (to the output itself
where it is constant). Zero for an operator that has the symmetry, whatever its accuracy.</dd>
<dt>Floor</dt><dd>The same number for an isotropic heat flow, which has every symmetry. What it
shows is lost by the transform, the window or rounding. A defect below 3 floors is no
property of the model.</dd>
<dt>Truth</dt><dd>The same number for the reference solution. A periodic box has no rotational
symmetry between 90° steps, so the truth itself need not be zero, and a surrogate is not to be
blamed for less than it.</dd>
<dt>Symmetry share S</dt><dd>The part of the mean square error, on the test set augmented by its
orbit, that averaging the model over the group would remove: MSE(F) = MSE(F̄) + ‖F − F̄‖². With
S = 31 % averaging alone cuts the squared error by 31 %; with S = 0.2 % symmetry is not the
problem. This takes it that the targets have the symmetry; where they do not, averaging may do
harm.</dd>
<dt>Error, transformed</dt><dd>‖F(g·x) − g·y‖ / ‖g·y‖: the error on inputs in another pose.</dd>
<dt>Infinitesimal defect</dt><dd>‖DF(x)[ξ·x] − ξ·F(x)‖ / ‖F(x) − mean‖, per radian of rotation or
per correlation length of translation. It bounds the finite defects. Far above them, it points to
fine scales: aliasing, or an edge.</dd>
<dt>Control</dt><dd>A wrong action, which must fail: the output moved by the inverse of the element,
by the opposite shift, or with the opposite parity. Where it passes as well, the samples cannot tell
one action from the other, and the symmetry is not testable on them.</dd>
<dt>Aliasing</dt><dd>A nonlinearity makes waves that the grid cannot hold; they fold back. That
breaks shifts by parts of a cell, and rotations, without any asymmetry in the weights. On a grid
twice as fine all of it is gone for smooth nonlinearities and fields that the grid resolves, about
half for relu, whose slope jumps alias on every grid; an asymmetry of the weights stays.</dd>
<dt>Layers</dt><dd>L(N₂∘N₁)(x) = (L N₂)(N₁x) + DN₂(N₁x)[L N₁(x)]: the infinitesimal defect is the
sum of what each layer contributes. A negative share compensates for others.</dd>
<dt>Verdicts</dt><dd><b>exact</b>: within rounding. <b>below floor</b>: less than 3 floors.
<b>consistent with truth</b>: the 95 % interval reaches down to that of the truth. <b>resolved
violation</b>: a property of the model. <b>not testable on this grid</b>: data are missing, the
transform alone loses more than 10 %, or a wrong action passes as well.</dd>
</dl></section>"""
