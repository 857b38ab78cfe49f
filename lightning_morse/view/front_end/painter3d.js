// Plain WebGL: a lit surface with a picture on it. Null where the browser has none.

const VERTEX = `
attribute vec3 place;
attribute vec3 normal;
uniform mat4 view;
varying vec2 at;
varying vec3 facing;
void main() {
  gl_Position = view * vec4(place, 1.0);
  at = vec2(0.5 + 0.5 * place.x, 0.5 - 0.5 * place.y);
  facing = normal;
}`;
const FRAGMENT = `
precision mediump float;
uniform sampler2D picture;
uniform vec3 light;
varying vec2 at;
varying vec3 facing;
void main() {
  float lit = 0.62 + 0.42 * abs(dot(normalize(facing), light));
  gl_FragColor = vec4(texture2D(picture, at).rgb * min(lit, 1.0), 1.0);
}`;
const FLOAT_BYTES = 4, FLOATS = 6;

export function painter3d(canvas) {
  const gl = canvas.getContext("webgl", { antialias: true });
  if (!gl || gl.isContextLost()) return null;
  const program = linked(gl);
  if (!program) return null;
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  const corners = gl.createBuffer(), order = gl.createBuffer(), texture = gl.createTexture();
  let count = 0;
  gl.bindBuffer(gl.ARRAY_BUFFER, corners);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, order);
  gl.bindTexture(gl.TEXTURE_2D, texture);
  for (const [k, name] of ["place", "normal"].entries()) {
    const where = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(where);
    const [stride, offset] = [FLOATS * FLOAT_BYTES, 3 * k * FLOAT_BYTES];
    gl.vertexAttribPointer(where, 3, gl.FLOAT, false, stride, offset);
  }
  const at = (name) => gl.getUniformLocation(program, name);
  const [view, light] = [at("view"), at("light")];

  return {
    // mesh: see Relief.mesh(). picture: a canvas whose sides are powers of two.
    load({ points, triangles }, picture) {
      gl.bufferData(gl.ARRAY_BUFFER, points, gl.STATIC_DRAW);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STATIC_DRAW);
      count = triangles.length;
      // As a canvas has its pixels, which is all the same where none is transparent: turned upside
      // down or divided by their opacity they would take three times as long.
      gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, true);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
      gl.generateMipmap(gl.TEXTURE_2D);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    },

    // ground: three numbers from 0 to 1.
    draw(matrix, lightFrom, ground) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(...ground, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix4fv(view, false, matrix);
      gl.uniform3fv(light, lightFrom);
      gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_SHORT, 0);
    },
  };
}

function linked(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  return gl.getProgramParameter(program, gl.LINK_STATUS) ? program : null;
}
