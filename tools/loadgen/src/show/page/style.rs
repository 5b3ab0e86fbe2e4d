//! How pages look: one style sheet for light and dark ground, wide and narrow screens.
//!
//! The line colours are Paul Tol's *vibrant* set, which people with the usual kinds of colour
//! blindness tell apart, a little darker on white and lighter on black where they lacked contrast.

pub const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#fff;--text:#1b1f24;--soft:#57606a;--line:#d6dbe1;\
--band:#f1f3f6;--box:#f6f8fa;--fault:#b3261e;\
--c0:#0069a8;--c1:#d55a12;--c2:#00796b;--c3:#c2185b;--c4:#0b97c4;--c5:#8a6d00;--c6:#6b4fa0;--c7:#6e7781}\
@media(prefers-color-scheme:dark){:root{--ground:#12151a;--text:#e6e9ee;--soft:#a0a9b4;--line:#343b45;\
--band:#1b2027;--box:#1a1f26;--fault:#ff8a80;\
--c0:#58a9e8;--c1:#f2914e;--c2:#3cc2ac;--c3:#f06ba0;--c4:#6fd3f5;--c5:#d9bd4a;--c6:#b39ddb;--c7:#9aa4af}}\
*{box-sizing:border-box}\
body{font:16px/1.55 system-ui,'DejaVu Sans',sans-serif;background:var(--ground);color:var(--text);\
max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem;overflow-wrap:break-word}\
h1{font-size:1.05rem;font-weight:600;margin:0 0 .6rem;color:var(--soft)}\
h2{font-size:1.3rem;line-height:1.3;margin:2.6rem 0 .5rem;padding-top:.8rem;border-top:1px solid var(--line)}\
h3{font-size:1.05rem;margin:1.6rem 0 .3rem}\
p{margin:.5rem 0;max-width:46rem}ul,dl{margin:.5rem 0;padding:0}ul.plain{padding-left:1.2rem;max-width:46rem}\
.verdict{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem 1rem;padding:.8rem 1.1rem;margin:0;\
max-width:none;border-radius:.4rem;color:#fff;font-size:1.1rem}\
.verdict strong{font-size:1.9rem;line-height:1.2;letter-spacing:.02em}\
.PASS{background:#1d7a3e}.FAILED{background:#a3222c}.OVERLOADED,.INCOMPLETE{background:#8a5a00}\
.numbers{display:grid;grid-template-columns:repeat(6,1fr);gap:.3rem 1rem;margin:1rem 0}\
.numbers dt{color:var(--soft);font-size:.85rem}.numbers dd{margin:0;font-size:1.25rem;font-weight:600}\
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:1rem 0;font-size:.92rem}\
.facts dt{color:var(--soft)}.facts dd{margin:0;min-width:0}\
.parts dt{font-weight:600;margin-top:.5rem}.parts dd{margin:0;max-width:46rem}\
.parts dd small,.note,small{color:var(--soft)}small,.note{font-size:.85rem}\
.badge{display:inline-block;font-size:.8rem;font-weight:600;padding:0 .45rem;border-radius:.25rem;\
border:1px solid currentColor;white-space:nowrap}.met{color:var(--c2)}.missed{color:var(--fault)}\
.unjudged{color:var(--soft)}\
.scroll{overflow-x:auto;margin:.6rem 0}\
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}\
caption{text-align:left;font-weight:600;padding:.3rem 0;white-space:nowrap}\
th,td{text-align:left;vertical-align:top;padding:.22rem 1.1rem .22rem 0}\
thead th{color:var(--soft);font-weight:500;border-bottom:1px solid var(--line);white-space:nowrap}\
tbody th{font-weight:500}tbody tr+tr>*{border-top:1px solid var(--line)}\
tr.all>*{font-weight:600}tbody.part th[scope=rowgroup]{padding-top:.9rem;font-weight:600}\
.num{text-align:right;white-space:nowrap}.word{white-space:nowrap}td.text{min-width:14rem}\
table.bars{width:100%;table-layout:fixed;margin:.6rem 0}table.bars td,table.bars th{border:0;vertical-align:middle}\
table.bars th{width:24%}td.bar{width:54%}td.bar span{display:block;height:1rem;min-width:1px;border-radius:.15rem}\
figure{margin:1.4rem 0}figcaption{font-weight:600}\
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:.85rem;margin:.1rem 0 .2rem}\
.legend i{display:inline-block;width:1.3rem;margin-right:.4rem;vertical-align:middle;border-top:3px solid}\
.legend i.dashed{border-top-style:dashed}\
.legend i.ramp{height:.7rem;width:5rem;margin:0 .3rem;border:0;background:linear-gradient(90deg,transparent,var(--c0))}\
svg{display:block;width:100%;height:auto}svg.narrow{display:none}\
svg text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:var(--text)}svg text.unit{fill:var(--soft)}svg text.phase{paint-order:stroke;stroke:var(--ground);stroke-width:4px;stroke-linejoin:round}\
svg text.fault{fill:var(--fault);paint-order:stroke;stroke:var(--ground);stroke-width:4px;\
stroke-linejoin:round}svg .end{text-anchor:end}svg .middle{text-anchor:middle}\
svg path{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}\
svg path.grid,svg path.tick{stroke:var(--line);stroke-width:1}svg rect.phase{fill:var(--band)}\
svg rect.fault{fill:var(--fault);fill-opacity:.12}\
svg path.mark{stroke:var(--fault);stroke-width:1.2;stroke-dasharray:3 2;stroke-linecap:butt}\
svg path.cell{fill:var(--c0);stroke:none}svg path.dashed{stroke-dasharray:5 4;stroke-linecap:butt}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}\
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}\
svg path.a0{fill:var(--c0)}svg path.a1{fill:var(--c1)}svg path.a2{fill:var(--c2)}svg path.a3{fill:var(--c3)}\
svg path.a4{fill:var(--c4)}svg path.a5{fill:var(--c5)}svg path.a6{fill:var(--c6)}svg path.a7{fill:var(--c7)}\
svg path[class^=a]{fill-opacity:.16;stroke:none}\
.k0{color:var(--c0)}.k1{color:var(--c1)}.k2{color:var(--c2)}.k3{color:var(--c3)}\
.k4{color:var(--c4)}.k5{color:var(--c5)}.k6{color:var(--c6)}.k7{color:var(--c7)}\
.b0{background:var(--c0)}.b1{background:var(--c1)}.b2{background:var(--c2)}.b3{background:var(--c3)}\
.b4{background:var(--c4)}.b5{background:var(--c5)}.b6{background:var(--c6)}.b7{background:var(--c7)}\
details{margin:.6rem 0}summary{cursor:pointer;font-weight:600}\
.callout{background:var(--box);border-left:4px solid var(--fault);padding:.5rem 1rem;margin:1rem 0;border-radius:.2rem}\
@media(max-width:640px){body{padding:.8rem .75rem 3rem;font-size:15px}svg.wide{display:none}\
svg.narrow{display:block}.numbers{grid-template-columns:repeat(2,1fr)}.verdict strong{font-size:1.6rem}.facts{grid-template-columns:1fr;gap:0}\
.facts dd{margin-bottom:.4rem}th,td{padding-right:.8rem}td.text{min-width:7rem}table.bars th{width:26%}td.bar{width:40%}}\
@media print{svg.wide{display:block}svg.narrow{display:none}}";
