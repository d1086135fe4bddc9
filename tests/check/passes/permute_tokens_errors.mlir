// RUN: not attir opt %s --passes="permute-tokens{tile=4,4,4}" 2>&1 | filecheck %s
// RUN: not attir opt %s --passes="permute-tokens{tile=4,0}" 2>&1 | filecheck %s --check-prefix=ZERO

// CHECK: error: the tile has 3 sides, but the grid of the mask has 2 axes
// ZERO: error: the sides of a tile must be positive, but are 4, 0
"func.func"() <{function_type = (tensor<1x2x64x16xf32>) -> tensor<1x2x64x16xf32>, sym_name = "f"}> ({
^bb0(%q: tensor<1x2x64x16xf32>):
  %out, %lse = "attn.attention"(%q, %q, %q) <{scale = 2.5e-01 : f32}> ({
  }, {
  ^bb1(%b: index, %h: index, %m: index, %n: index):
    %width = "arith.constant"() <{value = 8 : index}> : () -> index
    %x = "arith.remsi"(%m, %width) : (index, index) -> index
    %kx = "arith.remsi"(%n, %width) : (index, index) -> index
    %same = "arith.cmpi"(%x, %kx) <{predicate = 0 : i64}> : (index, index) -> i1
    "attn.yield"(%same) : (i1) -> ()
  }) : (tensor<1x2x64x16xf32>, tensor<1x2x64x16xf32>, tensor<1x2x64x16xf32>) -> (tensor<1x2x64x16xf32>, tensor<1x2x64xf32>)
  "func.return"(%out) : (tensor<1x2x64x16xf32>) -> ()
}) : () -> ()
